"""How long a member that could not be started, or was given up, rests before it is tried again."""

import time
from collections.abc import Callable

FIRST_PAUSE_S = 2.0
LONGEST_PAUSE_S = 60.0
"""Each pause is twice the one before; the first one comes again when the member has served well for so long."""


class Pauses:
    """The pauses of one member."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next_s = FIRST_PAUSE_S
        self._well_since: float | None = None

    def note(self, is_well: bool) -> None:
        """Hear whether the member serves, several times a second."""
        now = self._clock()
        if not is_well:
            self._well_since = None
        elif self._well_since is None:
            self._well_since = now
        elif now - self._well_since >= LONGEST_PAUSE_S:
            self._next_s = FIRST_PAUSE_S

    def take(self) -> float:
        """Return the pause that is due now, in seconds."""
        pause_s, self._well_since = self._next_s, None
        self._next_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s
