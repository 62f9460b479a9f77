"""Fetches snapshots for ever and posts them; waits longer after each failure, and not at all when told to hurry."""

import asyncio
from collections.abc import Callable

from textual.message import Message

from prefillshare_tui.client import Source
from prefillshare_tui.clock import Clock
from prefillshare_tui.errors import FeedError
from prefillshare_tui.snapshot import Snapshot

LONGEST_WAIT_S = 5.0


class SnapshotArrived(Message):
    """The deployment told its state."""

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self.snapshot = snapshot


class FetchFailed(Message):
    """It did not."""

    def __init__(self, error: str, retry_s: float) -> None:
        super().__init__()
        self.error = error
        self.retry_s = retry_s


class Feed:
    """Runs as a worker of the app."""

    def __init__(self, source: Source, clock: Clock, post: Callable[[Message], object], interval_s: float) -> None:
        self._source = source
        self._clock = clock
        self._post = post
        self._interval_s = interval_s
        self._hurry = asyncio.Event()

    def hurry(self) -> None:
        """End the wait for the next attempt."""
        self._hurry.set()

    async def run(self) -> None:
        """Fetch until the worker is cancelled."""
        num_failures = 0
        while True:
            started = self._clock.now()
            try:
                self._post(SnapshotArrived(await self._source.fetch()))
                num_failures = 0
                wait_s = max(0.0, self._interval_s - (self._clock.now() - started))
            except FeedError as error:
                num_failures += 1
                wait_s = max(self._interval_s, min(LONGEST_WAIT_S, 0.5 * 2**num_failures))
                self._post(FetchFailed(str(error), wait_s))
            await self._wait(wait_s)

    async def _wait(self, seconds: float) -> None:
        self._hurry.clear()
        waits = [asyncio.ensure_future(self._clock.sleep(seconds)), asyncio.ensure_future(self._hurry.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
