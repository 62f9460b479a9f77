"""When a measurement must be over, its report included."""

import math
import time

RESERVE_S = 20.0
"""Time for stopping the engines and for the report."""


class Deadline:
    """Begins to run when it is made; without a limit, it never comes."""

    def __init__(self, limit_s: float | None) -> None:
        self.limit_s = limit_s
        self._reserve_s = min(RESERVE_S, (limit_s or math.inf) / 4)
        self._ends_at = math.inf if limit_s is None else time.monotonic() + limit_s

    @property
    def left_s(self) -> float:
        """Seconds for measuring; 0 when they are over, infinite without a limit."""
        return max(0.0, self._ends_at - self._reserve_s - time.monotonic())
