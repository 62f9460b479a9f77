"""The HTTP process's word that no call of its own has run for a moment: only then does the scheduler begin a slice.

    calls    |== A ==|  |== B ==|                         |== C ==|
    gaps             |--|       |--------|
    word                                 ^ quiet          ^ a call came
    slices                               |== ==|== ==|

Between two calls of callers that go on at once, nobody waits and nobody decodes, so a slice could begin, and the next
call would wait for it: what others left behind would be computed at the expense of those who are at work. Ranks of an
engine must decide alike, so the scheduler may not look at a clock. It is told, in the same order as of the calls.
:mod:`sglang_patches.engine.tokenizer_manager` says when a call ends. Of several HTTP processes each knows its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

SETTLE_S = 0.02
"""How long no call has run. A caller that goes on at once has what its answer adds computed with what it says next, in
one step; a job would be a step more (0.09 s at 0.1 B parameters on a CPU core), which that very call waits for."""


class Quiet:
    """Tells once, ``SETTLE_S`` after the last call ended; of the event loop's thread only."""

    def __init__(self, *, has_calls: Callable[[], bool], tell: Callable[[], None]) -> None:
        self._has_calls = has_calls
        self._tell = tell
        self._since = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def end_call(self) -> None:
        """A call has ended, in whatever way."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        # Under load calls end all the time: one timer looks after all of them.
        if self._timer is None and not self._has_calls():
            self._timer = loop.call_later(SETTLE_S, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._has_calls():
            return  # the end of the last one begins anew
        loop = asyncio.get_running_loop()
        left_s = self._since + SETTLE_S - loop.time()
        if left_s > 0:
            self._timer = loop.call_later(left_s, self._look)
        else:
            self._tell()
