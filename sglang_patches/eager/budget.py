"""How much of a core may be spent on rendering conversations a second time: the event loop wants the same interpreter.

A conversation of 12,000 tokens takes a tenth of a second of it, several times what its answer's pieces take.
"""

from __future__ import annotations

import time
from collections.abc import Callable

SHARE = 0.25
"""Seconds per second."""
LONGEST_BURST_S = 1.0
"""What may be saved up for answers that end together."""


class Budget:
    """Seconds that may be spent, which grow with time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seconds = LONGEST_BURST_S
        self._since = clock()

    def has_some(self) -> bool:
        """Whether anything is left."""
        now = self._clock()
        self._seconds = min(self._seconds + SHARE * (now - self._since), LONGEST_BURST_S)
        self._since = now
        return self._seconds > 0

    def spend(self, seconds: float) -> None:
        """So much was spent, which may be more than was left."""
        self._seconds -= seconds
