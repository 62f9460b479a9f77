"""What classifiers have chosen, and how long a call waited for that."""

from prefillshare.observe.document import ChoicesState
from prefillshare.observe.histogram import QUEUE_S, Histogram


class Choices:
    """Numbers since the process started."""

    def __init__(self) -> None:
        self._calls: dict[tuple[str, str], int] = {}
        self._seconds = Histogram(QUEUE_S)

    def note(self, alias: str, module: str) -> None:
        """A call that named `alias` goes to `module`."""
        self._calls[alias, module] = self._calls.get((alias, module), 0) + 1

    def note_time(self, seconds: float) -> None:
        """A call waited so long for the prefill module's look at its prompt."""
        self._seconds.observe(seconds)

    def as_dict(self) -> ChoicesState | None:
        """Return them; None before the first."""
        if not self._calls and self._seconds.count == 0:
            return None
        return {
            "items": [
                {"alias": alias, "module": module, "calls": calls}
                for (alias, module), calls in sorted(self._calls.items())
            ],
            "seconds": self._seconds.as_dict(),
        }
