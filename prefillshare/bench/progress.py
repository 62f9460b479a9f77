"""How far a measurement is, and when it will be done."""

import math
import time
from collections.abc import Callable


class Progress:
    """Counts calls and tells about them; `tell_now` gets the current line, `tell` lines that stay.

    `most_left_s` says how many seconds a deadline allows.
    """

    def __init__(
        self,
        total_calls: int,
        *,
        tell: Callable[[str], None],
        tell_now: Callable[[str], None] = lambda line: None,
        most_left_s: Callable[[], float] = lambda: math.inf,
    ) -> None:
        self.tell = tell
        self._tell_now = tell_now
        self._total = total_calls
        self._most_left_s = most_left_s
        self._done = 0
        self._started_at = time.monotonic()
        self._what = ""

    def begin(self, what: str) -> None:
        """The next run, or the next start."""
        self._what = what
        self._tell_now(self._line())

    def stage(self, what: str) -> None:
        """Something begins that takes long before the first call is done; its line stays."""
        self._what = what
        self.tell(self._line())

    def call(self) -> None:
        """One more call is done."""
        self._done += 1
        self._tell_now(self._line())

    def end(self, outcome: str) -> None:
        """A run is done."""
        self.tell(f"{self._line()}: {outcome}")

    def _line(self) -> str:
        eta = eta_s(self._done, self._total, time.monotonic() - self._started_at)
        left = f", {duration(min(eta, self._most_left_s()))} left" if eta is not None else ""
        return f"[{self._done}/{self._total} calls{left}] {self._what}"


def eta_s(done: int, total: int, elapsed_s: float) -> float | None:
    """Seconds that the rest takes at the pace so far; None before anything is done."""
    return elapsed_s / done * (total - done) if done else None


def duration(seconds: float) -> str:
    """Seconds for people."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
