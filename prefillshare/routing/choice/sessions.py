"""Which prefill worker a session belongs to; the longest unused session is forgotten first."""

from collections import OrderedDict
from collections.abc import Callable


class Sessions:
    """A bounded map from session key to worker id."""

    def __init__(self, max_sessions: int, on_moved: Callable[[str, str, str], None] = lambda *_: None) -> None:
        """`on_moved` hears session, old and new worker of every session that changes its worker."""
        self.max_sessions = max_sessions
        self._on_moved = on_moved
        self.num_repins = 0
        self._pins: OrderedDict[str, str] = OrderedDict()

    def __len__(self) -> int:
        return len(self._pins)

    def worker_of(self, session: str | None) -> str | None:
        """Return the worker of `session`, or None."""
        if session is None or session not in self._pins:
            return None
        self._pins.move_to_end(session)
        return self._pins[session]

    def pin(self, session: str | None, worker: str) -> None:
        """Pin `session` to `worker`, and count when it was pinned to another one before."""
        if session is None:
            return
        before = self._pins.get(session, worker)
        if before != worker:
            self.num_repins += 1
            self._on_moved(session, before, worker)
        self._pins[session] = worker
        self._pins.move_to_end(session)
        if len(self._pins) > self.max_sessions:
            self._pins.popitem(last=False)

    def forget(self, worker: str) -> None:
        """Drop the pins to a worker that left."""
        for session in [session for session, pinned in self._pins.items() if pinned == worker]:
            del self._pins[session]
