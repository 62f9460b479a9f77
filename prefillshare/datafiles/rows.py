"""A row, or why there is none."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class BadRow:
    """A row that cannot be read."""

    reason: str
    """What is wrong, for people."""
    is_end: bool = False
    """Whether nothing behind it can be read either, since the file is cut or damaged there."""


Row = Mapping[str, Any] | BadRow
"""What a reader yields; the position in the file is the row's number, from 1."""


def excerpt(text: str) -> str:
    """The beginning of a text, short enough to stand inside of a sentence."""
    return text.strip()[:60]
