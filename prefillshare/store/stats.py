"""What a store has counted in this process, and what it holds."""

from dataclasses import dataclass
from typing import Literal

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

    tiers: tuple[TierStats, ...]
    hit_pages: int
    """Pages read."""
    missed_pages: int
    """Pages asked for by `read` and not given."""
    written_pages: int
    refused_pages: int
    """Pages that were not taken: no room that is old enough, or a failure."""
    damaged_pages: int
    """Pages whose checksum did not fit; each was dropped."""
    promoted_pages: int
    demoted_pages: int
    failures: int
    """Calls that ended early by an error of the system; the first of each kind is in the log."""
