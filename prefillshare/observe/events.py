"""What happened lately, for people: the last events, none of them told in floods."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from prefillshare.observe.document import EventKind, EventState, part_of
from prefillshare.wire.text import MAX_NAME, make_printable, shorten

MAX_EVENTS = 200
PAUSE_S = 1.0
"""Events of one kind about one subject within so many seconds are counted, and told with the next one."""
MAX_MESSAGE = 400
_MAX_SUBJECTS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event."""

    id: int
    """Rises by one with each event of this process."""
    time: float
    """Seconds since 1970."""
    kind: EventKind
    """What kind of thing happened."""
    subject: str
    """Worker, module or session that it is about."""
    message: str
    """One sentence."""


class Events:
    """The last `MAX_EVENTS` events."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self._num_told = 0
        self._recent: dict[tuple[EventKind, str], tuple[float, int]] = {}

    def tell(self, kind: EventKind, subject: str, message: str) -> None:
        """Note an event, unless one like it was noted a moment ago; both texts may come from a client."""
        now, subject = self._clock(), shorten(make_printable(subject), MAX_NAME)
        told_at, num_untold = self._recent.get((kind, subject), (-PAUSE_S, 0))
        if 0 <= now - told_at < PAUSE_S:
            self._recent[kind, subject] = (told_at, num_untold + 1)
            return
        if len(self._recent) >= _MAX_SUBJECTS:
            self._recent.clear()
        self._recent[kind, subject] = (now, 0)
        if num_untold:
            message = f"{message} (and {num_untold} more before)"
        self._num_told += 1
        message = shorten(make_printable(message[: 2 * MAX_MESSAGE]), MAX_MESSAGE)
        self._events.append(Event(id=self._num_told, time=now, kind=kind, subject=subject, message=message))

    def as_list(self) -> list[EventState]:
        """Return the events, oldest first."""
        return [part_of(EventState, event) for event in self._events]
