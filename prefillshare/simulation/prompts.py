"""Prompts as bytes, four per token, and answers that nobody generates."""

import random
from array import array
from collections.abc import Sequence

from prefillshare.bench.workloads.base import FIRST_TOKEN

_MAX_TOKEN = 1 << 17


def encode(tokens: Sequence[int]) -> bytes:
    """Return the bytes of token ids."""
    return array("I", tokens).tobytes()


def make_up_answer(session: str, num_prompt: int, num_tokens: int) -> list[int]:
    """Return an answer that depends on its session and place alone, so that every system reads the same contexts."""
    rng = random.Random(f"{session}/{num_prompt}")
    return rng.choices(range(FIRST_TOKEN, _MAX_TOKEN), k=num_tokens)
