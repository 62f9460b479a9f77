"""Circuit breaker of one worker: calls that fail in a row pause it, one trial call ends the pause or doubles it."""

import time
from collections.abc import Callable
from typing import Literal

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Closed while calls succeed; open for a while after `failures` failed ones in a row; then one trial."""

    def __init__(
        self,
        *,
        failures: int,
        open_s: float,
        max_open_s: float,
        clock: Callable[[], float] = time.monotonic,
        on_changed: Callable[[], None] = lambda: None,
    ) -> None:
        """`on_changed` hears whenever `can_pass` may be another, but not of a pause that ends."""
        self._limit = failures
        self._first_pause_s = open_s
        self._max_pause_s = max_open_s
        self._clock = clock
        self._on_changed = on_changed
        self._pause_s = open_s
        self._open_until = 0.0
        self._is_open = False
        self._is_trial_running = False
        self.num_failures = 0

    @property
    def state(self) -> State:
        """The state as people know it."""
        if not self._is_open:
            return "closed"
        return "open" if self._clock() < self._open_until else "half_open"

    @property
    def can_pass(self) -> bool:
        """Whether a call may be sent now."""
        return not self._is_open or (not self._is_trial_running and self._clock() >= self._open_until)

    def begin_call(self) -> None:
        """Hear that a call is sent; while open, it is the trial."""
        if self._is_open:
            self._is_trial_running = True
            self._on_changed()

    def record_success(self) -> None:
        """Hear that a call was answered, or that the worker came back: calls flow again."""
        self.num_failures = 0
        self._is_open = self._is_trial_running = False
        self._pause_s = self._first_pause_s
        self._on_changed()

    def record_nothing(self) -> None:
        """Hear that a call ended and says nothing about the worker, such as by the client's leaving.

        If it was the trial, the next call is.
        """
        self._is_trial_running = False
        self._on_changed()

    def record_failure(self) -> None:
        """Hear that a call failed by the worker's fault."""
        self.num_failures += 1
        # While open, calls from before may still fail: they open nothing anew and lengthen no pause.
        if self._is_trial_running:
            self._pause_s = min(2 * self._pause_s, self._max_pause_s)
        if self._is_trial_running or (not self._is_open and self.num_failures >= self._limit):
            self._is_open = True
            self._open_until = self._clock() + self._pause_s
        self._is_trial_running = False
        self._on_changed()
