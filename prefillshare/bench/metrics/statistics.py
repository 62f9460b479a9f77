"""Percentiles and medians, by nearest rank: each is a value that occurred."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

PERCENTS = (50, 95, 99)


def least_values(percent: float) -> int:
    """So many values have at least one beyond the percentile; of fewer, it would only be their largest."""
    return math.ceil(100 / (100 - percent)) if percent < 100 else 1


def percentile(values: Sequence[float], percent: float) -> float | None:
    """The smallest value that at least `percent` percent of the values do not exceed; None of too few values."""
    if len(values) < least_values(percent):
        return None
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """One figure over all repeats."""

    median: float
    """Median of the repeats."""
    low: float
    """Smallest."""
    high: float
    """Largest."""


def spread(values: Sequence[float | None]) -> Spread | None:
    """Median and range of the repeats that have the figure; None when none has."""
    known = [value for value in values if value is not None]
    return Spread(median=statistics.median(known), low=min(known), high=max(known)) if known else None
