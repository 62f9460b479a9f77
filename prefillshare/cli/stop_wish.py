"""Ctrl-C in a command that changes a deployment on a cluster."""

import signal
from types import FrameType


class StopWish:
    """The first signal is heard between two looks at the cluster: Ray's calls do not bear an exception from a handler.

    The second one ends this process.
    """

    def __init__(self) -> None:
        self._is_wanted = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._hear)

    def check(self) -> None:
        """Raises: StopRequested after a signal."""
        from prefillshare.serving.stopping import StopRequested

        if self._is_wanted:
            raise StopRequested

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._is_wanted = True
        signal.signal(number, signal.SIG_DFL)
