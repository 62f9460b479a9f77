"""What a store has counted in this process, and what it holds."""

from dataclasses import dataclass, fields, replace
from typing import Literal, Self

Medium = Literal["memory", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether pages for a medium are encoded, and by which figures; these are 0 where nothing was measured."""

    is_encoded: bool = False
    medium_bytes_per_s: float = 0.0
    """There and back again, one after the other."""
    break_even_bytes_per_s: float = 0.0
    """Of a medium for which it is all the same (`codec/break_even.py`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStats:
    """One tier, as all processes see it; counts and speeds are this process's."""

    medium: Medium
    capacity_bytes: int
    """Bytes of pages that fit."""
    allocated_bytes: int
    """Bytes that are taken from the file system for pages so far."""
    used_bytes: int
    """Bytes of slots that hold pages."""
    num_pages: int
    evicted_pages: int
    """Pages that gave their room to newer ones, demoted or not."""
    read_bytes_per_s: float
    """Measured over this process's last reads, check included; 0 before the first."""
    write_bytes_per_s: float
    encoding: Verdict
    """Whether pages are encoded now, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStats:
    """All tiers, and the counts of this process since it attached."""

    tiers: tuple[TierStats, ...] = ()
    why_off: str | None = None
    """Why there is no store, with the fix; None where there is one."""
    hit_pages: int = 0
    """Pages read."""
    missed_pages: int = 0
    """Pages asked for by `read` and not given."""
    written_pages: int = 0
    refused_pages: int = 0
    """Pages that were not taken: no room that is old enough, or a failure."""
    damaged_pages: int = 0
    """Pages whose checksum did not fit; each was dropped."""
    promoted_pages: int = 0
    demoted_pages: int = 0
    failures: int = 0
    """Calls that ended early by an error of the system, or went on without a part; the first of each kind is in the
    log."""

    def with_counts_of(self, earlier: Self) -> Self:
        """These, with the counts of an earlier view added."""
        return replace(self, **{name: getattr(self, name) + getattr(earlier, name) for name in _COUNTS})


_COUNTS = tuple(field.name for field in fields(StoreStats) if field.type is int)
