"""What a prefill worker answers a router that asks for the hidden states of a call's prompts, to choose its module.

A list with one object per prompt: `state`, float32 numbers in base64, little end first, and `meta_info` as `/generate`
has it, by which the router knows what was computed.
"""

import sys
from array import array
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from prefillshare.errors import AnswerError


def write_states(states: Iterable[Sequence[float]], infos: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the body of the answer."""
    return orjson.dumps(
        [{"state": _encode(state), "meta_info": info} for state, info in zip(states, infos, strict=True)]
    )


def read_states(content: bytes) -> "list[array[float]]":
    """Return the hidden state of each prompt.

    Raises: AnswerError when the answer has none, or some of another size than others.
    """
    try:
        found = [_decode(item["state"]) for item in orjson.loads(content)]
    except (ValueError, LookupError, TypeError):
        found = []
    sizes = {len(state) for state in found}
    if len(sizes) != 1 or 0 in sizes:
        raise AnswerError("told no hidden states of the prompt")
    return found


def _encode(state: Sequence[float]) -> str:
    return b64encode(_little(array("f", state)).tobytes()).decode()


def _decode(text: str) -> "array[float]":
    numbers = array("f")
    numbers.frombytes(b64decode(text, validate=True))
    return _little(numbers)


def _little(numbers: "array[float]") -> "array[float]":
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
