"""The codec is made ready beside the work: to import and measure it takes seconds, for which no peer waits."""

import threading

from prefillshare.store.codec.base import Codec
from prefillshare.store.codec.speed import measured_speed


class Preparation:
    """Of one process; begun when somebody first asks whether it is done."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._is_begun = False

    def is_done(self) -> bool:
        """Whether the codec can be used at once; begins to make it ready if it is not."""
        with self._lock:
            if not self._is_begun:
                self._is_begun = True
                threading.Thread(target=self.finish, name="codec", daemon=True).start()
        return self._done.is_set()

    def finish(self) -> None:
        """Make it ready, and return when it is."""
        self._is_begun = True
        measured_speed(_make())
        self._done.set()


def _make() -> Codec:
    # Compiled at import.
    from prefillshare.store.codec.splitzip import SplitZip

    return SplitZip()
