"""The cores that all processes of a deployment share on a machine without GPUs, as an operating system deals them.

Whoever has something to compute gets an equal part: of two cores, three get two thirds of a core each, and one alone
never more than a whole one. So with n at work, each gets on by `min(1, cores / n)` seconds per second, and the clock
that runs at that speed (`_served_s`) says when each is done.
"""

import asyncio
import heapq
import itertools

from prefillshare.simulation.clock import now_s

_ROUNDING_S = 1e-9
_Work = tuple[float, int, "asyncio.Future[None]"]
"""Reading of `_served_s` at which it is done, a number that makes entries differ, and who waits."""


class Cores:
    """Runs work; without a number, everybody has a processor of their own."""

    def __init__(self, num_cores: int) -> None:
        self.busy_s = 0.0
        self._num_cores = num_cores
        self._work: list[_Work] = []
        self._numbers = itertools.count()
        self._served_s = 0.0
        self._served_at_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._beside: set[asyncio.Task[None]] = set()

    @property
    def are_shared(self) -> bool:
        """Whether work may have to wait for other work."""
        return self._num_cores > 0

    def spend(self, seconds: float) -> None:
        """Compute for so long beside everything else; nobody waits for its end."""
        if self.are_shared and seconds > 0:
            task = asyncio.create_task(self.run(seconds))
            self._beside.add(task)
            task.add_done_callback(self._beside.discard)

    async def run(self, seconds: float) -> None:
        """Compute for so long, longer by what others take."""
        if not self.are_shared:
            await asyncio.sleep(seconds)
            return
        if seconds <= 0:
            return
        self._serve()
        self.busy_s += seconds
        done = asyncio.get_running_loop().create_future()
        heapq.heappush(self._work, (self._served_s + seconds, next(self._numbers), done))
        self._wake_at_next_end()
        await done

    def _speed(self) -> float:
        return min(1.0, self._num_cores / len(self._work)) if self._work else 1.0

    def _serve(self) -> None:
        """Let all work get on until now: to be called before anything begins or ends, since that changes the speed."""
        now = now_s()
        self._served_s += (now - self._served_at_s) * self._speed()
        self._served_at_s = now

    def _wake_at_next_end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        left_s = max(0.0, self._work[0][0] - self._served_s)
        self._timer = asyncio.get_running_loop().call_later(left_s / self._speed(), self._end_done)

    def _end_done(self) -> None:
        self._serve()
        self._timer = None
        while self._work and self._work[0][0] <= self._served_s + _ROUNDING_S:
            heapq.heappop(self._work)[2].set_result(None)
        if self._work:
            self._wake_at_next_end()
