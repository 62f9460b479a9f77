"""Values of the sampling parameters that are of the wrong kind, or that no engine can mean, are refused by name.

SGLang checks the range of some of them; the rest ends the call with status 500 (text for a number), is taken as if it
were not there, or reaches the scheduler and ends it (a number that its tensors cannot hold).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from functools import partial

from prefillshare.errors import short_repr
from sglang_patches.answers import stop_patterns

MAX_SAMPLES = 128
"""As the OpenAI API defines it."""
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 4096
"""Of all stops together: each is looked for after each token."""
MAX_STOP_TOKENS = 1024
MAX_LOGIT_BIAS = 100.0
"""As the OpenAI API defines it."""
LARGEST = 1 << 30
"""Of numbers that the engine keeps in 32 bits."""

_show = partial(short_repr, length=80)

_SWITCHES = ("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "no_stop_trim")
_TEXTS = ("json_schema", "regex", "ebnf", "structural_tag")
_NUMBERS = ("temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty")
_INTEGERS = {
    "n": (1, MAX_SAMPLES),
    "max_new_tokens": (0, LARGEST),
    "min_new_tokens": (0, LARGEST),
    "top_k": (-1, LARGEST),
    "stream_interval": (1, LARGEST),
    "sampling_seed": (-(1 << 63), (1 << 63) - 1),
}
"""Name -> least and most; which ones between are taken (top_k 0), SGLang says."""


def check_samples(params: object) -> None:
    """Look at what a call is multiplied by, before it is.

    Raises: ValueError naming the value and what is allowed.
    """
    if params is not None and not isinstance(params, Mapping):
        raise ValueError(f"sampling_params is {_show(params)}: give an object")
    if params and params.get("n") is not None:
        _check_integer("n", params["n"])


def check(params: Mapping[str, object] | None) -> None:
    """Look at one call's parameters, by their names in the engine.

    Raises: ValueError naming the parameter, its value and what is allowed.
    """
    for name, value in (params or {}).items():
        if name not in _CHECKS:
            raise ValueError(f"there is no sampling parameter {name!r}{_suggest(name)}")
        if value is not None:
            _CHECKS[name](name, value)


def _suggest(name: object) -> str:
    found = difflib.get_close_matches(str(name), _CHECKS, n=1)
    return f": did you mean {found[0]!r}?" if found else ""


def _check_integer(name: str, value: object) -> None:
    least, most = _INTEGERS[name]
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is {_show(value)}: it must be a whole number from {least} to {most}")


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f"{name} is {_show(value)}: it must be a finite number")


def _check_switch(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name} is {_show(value)}: it must be true or false")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{name} is {_show(value)}: give it as text")


def _check_stops(name: str, value: object) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise ValueError(f"{name} is {_show(value)}: give a text or a list of texts")
    if "" in stops:
        raise ValueError(f"{name} contains an empty text, which every answer has at its start: leave it out")
    if len(stops) > MAX_STOPS:
        raise ValueError(f"{name} has {len(stops)} entries: {MAX_STOPS} are allowed")
    num_characters = sum(map(len, stops))
    if num_characters > MAX_STOP_CHARACTERS:
        raise ValueError(f"{name} has {num_characters} characters in all: {MAX_STOP_CHARACTERS} are allowed")
    return stops


def _check_stop_regex(name: str, value: object) -> None:
    for pattern in _check_stops(name, value):
        try:
            stop_patterns.compile_pattern(pattern)
        except re.error as error:
            raise ValueError(f"{name} {_show(pattern)} cannot be used ({error}): correct it") from None


def _check_stop_token_ids(name: str, value: object) -> None:
    if not isinstance(value, list) or len(value) > MAX_STOP_TOKENS:
        raise ValueError(f"{name} must be a list of at most {MAX_STOP_TOKENS} token ids")
    wrong = [token for token in value if not isinstance(token, int) or isinstance(token, bool)]
    if wrong:
        raise ValueError(f"{name} contains {_show(wrong[0])}: give token ids, which are whole numbers")


def _check_logit_bias(name: str, value: object) -> None:
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} is {_show(value)}: give an object of token ids and numbers")
    for token, bias in value.items():
        if not str(token).isdecimal():
            raise ValueError(f"{name} names token {_show(token)}: give token ids, which are whole numbers")
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not is_number or not math.isfinite(bias) or abs(bias) > MAX_LOGIT_BIAS:
            raise ValueError(f"{name} of token {token} is {_show(bias)}: it must be a number from -100 to 100")


def _check_custom_params(name: str, value: object) -> None:
    if not isinstance(value, Mapping) or "__req__" in value:
        raise ValueError(f"{name} is {_show(value)}: give an object")
    for key, inner in value.items():
        members = inner if isinstance(inner, list) else inner.values() if isinstance(inner, dict) else [inner]
        if any(isinstance(member, list | dict) for member in members):
            raise ValueError(f"{name} {key!r} is nested too deeply: give plain values, or a list or object of them")


_CHECKS: dict[str, Callable[[str, object], object]] = {
    **dict.fromkeys(_INTEGERS, _check_integer),
    **dict.fromkeys(_NUMBERS, _check_number),
    **dict.fromkeys(_SWITCHES, _check_switch),
    **dict.fromkeys(_TEXTS, _check_text),
    "stop": _check_stops,
    "stop_regex": _check_stop_regex,
    "stop_token_ids": _check_stop_token_ids,
    "logit_bias": _check_logit_bias,
    "custom_params": _check_custom_params,
}
"""Every parameter that callers may set; the engine's class has some more, which only it may set."""
