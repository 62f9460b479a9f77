"""Text with meaning but without colours: pure modules make it, widgets paint it.

Own, cross-module and missed tokens differ by glyph as well as by colour, so that nothing is told by colour alone.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from prefillshare_tui.snapshot import Kv
from prefillshare_tui.totals import HitSplit

Tone = Literal["plain", "strong", "dim", "own", "cross", "missed", "good", "warn", "bad"]

OWN, CROSS, MISSED = "█", "⣿", "░"
SHARED, PRIVATE, FREE = "█", "▓", "░"


class Part(NamedTuple):
    """A piece of text in one tone."""

    text: str
    """What it says."""
    tone: Tone = "plain"
    """What it means."""


Line = tuple[Part, ...]
"""One line of text."""


def line(*parts: "str | tuple[str, Tone]") -> Line:
    """Return a line of plain strings and (text, tone) pairs."""
    return tuple(Part(part) if isinstance(part, str) else Part(*part) for part in parts)


def as_text(parts: Line) -> str:
    """Return the line without tones."""
    return "".join(part.text for part in parts)


def split_bar(split: HitSplit | None, width: int) -> Line:
    """A bar of prompt tokens: own, cross-module, missed."""
    if split is None:
        return line(("·" * width, "dim"))
    own, cross, missed = _shares((split.own, split.cross, split.missed), width)
    return line((OWN * own, "own"), (CROSS * cross, "cross"), (MISSED * missed, "missed"))


def memory_bar(kv: Kv | None, width: int) -> Line:
    """A bar of KV memory: shared, private, free."""
    if kv is None or not kv.capacity_tokens:
        return line(("·" * width, "dim"))
    shared, private = kv.shared_tokens or 0.0, kv.private_tokens or 0.0
    cells = _shares((shared, private, max(0.0, kv.capacity_tokens - shared - private)), width)
    return line((SHARED * cells[0], "own"), (PRIVATE * cells[1], "warn"), (FREE * cells[2], "missed"))


def _shares(amounts: Sequence[float], width: int) -> list[int]:
    """Cells for each amount: at least one for what is there, all of them together `width`."""
    total = sum(amounts)
    if total <= 0:
        return [0] * (len(amounts) - 1) + [width]
    cells = [max(1, round(width * amount / total)) if amount > 0 else 0 for amount in amounts]
    cells[cells.index(max(cells))] += width - sum(cells)
    return cells
