"""Continuations of a decode worker, which its router asks for when an answer has ended: each is told once."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from prefillshare.wire.continuation import Continuation

MAX_KEPT = 256
LONGEST_S = 10.0
"""A router asks at once or never."""


class Kept:
    """At most ``MAX_KEPT`` continuations, for ``LONGEST_S``; those of the event loop's thread only."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, asyncio.Future[Continuation | None]]] = OrderedDict()

    def keep(self, rid: str, found: asyncio.Future[Continuation | None]) -> None:
        """Keep what is being found for the call `rid`; the oldest is forgotten where there are too many."""
        self._entries.pop(rid, None)
        self._entries[rid] = (self._clock(), found)
        while self._entries and (len(self._entries) > MAX_KEPT or self._is_old(next(iter(self._entries)))):
            self._entries.popitem(last=False)

    async def take(self, rid: str) -> Continuation | None:
        """What was found for the call `rid`, waited for where it is still being looked for; None the second time."""
        if rid not in self._entries or self._is_old(rid):
            self._entries.pop(rid, None)
            return None
        _, found = self._entries.pop(rid)
        return await found

    def _is_old(self, rid: str) -> bool:
        return self._clock() - self._entries[rid][0] > LONGEST_S
