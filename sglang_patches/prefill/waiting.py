"""A scheduler that waits for others (a hand-off, a compiled grammar) pauses instead of asking without end.

SGLang's loop asks its queues again at once when no batch can run and requests still wait, which takes a whole core. On
a machine with few cores that core is the one the prefill worker needs to end the wait. ``engine/scheduler`` pauses.
"""

from __future__ import annotations

import time
from typing import Protocol

LONGEST_S = 0.005
GAP_S = 0.01
_SHARE = 0.05


class CanBeIdle(Protocol):
    """What is looked at of a scheduler."""

    def is_fully_idle(self) -> bool:
        """Whether no request is anywhere in it."""


class Wait:
    """The wait of one scheduler, from the first round in which nothing runs though requests are there."""

    def __init__(self) -> None:
        self._since = 0.0
        self._paused_until: float | None = None

    def end_round(self, scheduler: CanBeIdle) -> None:
        """Pause; but an idle scheduler waits for nobody: it has a sleep of its own."""
        if not scheduler.is_fully_idle():
            self.pause()

    def pause(self) -> None:
        """Pause for a twentieth of the wait so far, so that no wait gets longer by more, and 5 ms at most."""
        time.sleep(self._seconds(time.monotonic()))
        self._paused_until = time.monotonic()

    def _seconds(self, now: float) -> float:
        # A gap of 10 ms since the last pause means that a batch has run: another wait begins.
        if self._paused_until is None or now - self._paused_until > GAP_S:
            self._since = now
        return min(LONGEST_S, (now - self._since) * _SHARE)
