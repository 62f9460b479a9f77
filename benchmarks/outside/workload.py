"""Sessions as aiperf's `multi_turn` data set: every turn names the model that is to answer it.

aiperf sends a session's turns one after the other, each with all turns and answers before it, as chat clients do.
"""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_SYLLABLES = ("ba", "den", "fo", "gar", "hi", "kel", "lo", "men", "nu", "pa", "ris", "so", "tam", "vu")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How much is asked."""

    num_sessions: int
    """Sessions."""
    num_turns: int
    """Turns of each; the models take them in turn."""
    start_words: int
    """Words of the first turn."""
    growth_words: int
    """Words of each further turn."""
    output_tokens: int
    """Tokens of each answer, forced."""


def write_sessions(file: Path, sizes: Sizes, models: Sequence[str], seed: int = 1) -> None:
    """Write one session per line; its text depends on the seed alone, however a system names its models.

    Raises: OSError.
    """
    words = random.Random(seed)
    lines = (
        json.dumps({"session_id": f"session-{number}", "turns": _turns(sizes, models, words.choices)})
        for number in range(sizes.num_sessions)
    )
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _turns(sizes: Sizes, models: Sequence[str], choose: Callable[..., list[str]]) -> list[dict[str, object]]:
    turns: list[dict[str, object]] = []
    for place in range(sizes.num_turns):
        num_words = sizes.growth_words if place else sizes.start_words
        text = " ".join("".join(choose(_SYLLABLES, k=2)) for _ in range(num_words))
        # What `extra` has goes over the body of this turn's request, `model` of the command line included.
        turns.append(
            {"text": text, "output_length": sizes.output_tokens, "extra": {"model": models[place % len(models)]}}
        )
    return turns
