"""Latency histograms with fixed buckets."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from prefillshare.observe.document import HistogramState

TTFT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
ITL_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
E2E_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
QUEUE_S = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
RATIO = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


class Histogram:
    """Counts of values up to each bound; the last bucket has none."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    @property
    def count(self) -> int:
        """How many values were seen."""
        return sum(self.counts)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times over; what a clock that was set back makes negative counts as 0."""
        if times <= 0 or not math.isfinite(value):
            return
        value = max(value, 0.0)
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    def add(self, other: HistogramState, sign: int = 1) -> None:
        """Add what `as_dict` of a histogram with the same bounds said, or take it away again."""
        for index, count in enumerate(other["counts"]):
            self.counts[index] += sign * count
        self.sum += sign * other["sum"]

    def as_dict(self) -> HistogramState:
        """Return bounds (None is the last, without one), counts per bucket, sum and count."""
        return {"le": [*self.bounds, None], "counts": list(self.counts), "sum": self.sum, "count": self.count}
