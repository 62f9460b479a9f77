"""Bounded queues before the workers: one per decode module, first come first served."""

import asyncio
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from prefillshare.config.router import Router
from prefillshare.routing.call.call import Call
from prefillshare.routing.choice.choice import Chooser, Pair
from prefillshare.routing.errors import QueueFullError, RoutingError, UnavailableError
from prefillshare.routing.workers.worker import Worker, WorkerPool

_DECAY = 0.9
_MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    call: Call
    avoid: Collection[str]
    pair: "asyncio.Future[Pair]"


class Admission:
    """Hands out reserved pairs of workers, at once or in turn."""

    def __init__(self, settings: Router, pool: WorkerPool, chooser: Chooser) -> None:
        self._max_queued = settings.max_queued_per_module
        self._timeout_s = settings.queue_timeout_s
        self._pool = pool
        self._chooser = chooser
        self._queues: dict[str, deque[_Waiting]] = {}
        self._mean_call_s = 1.0

    def num_queued(self, module: str | None = None) -> int:
        """Return how many calls wait, for `module` or altogether."""
        return sum(len(queue) for name, queue in self._queues.items() if module in (None, name))

    async def acquire(self, call: Call, avoid: Collection[str] = ()) -> Pair:
        """Return a reserved pair for `call`, waiting in its module's queue if need be.

        Raises: UnavailableError when a worker that it needs is not up or the wait was too long; QueueFullError.
        """
        if call.module not in self._queues:
            pair = self._chooser.choose(call, avoid)
            if pair is not None:
                return pair
        return await self._wait(call, avoid)

    def release(self, worker: Worker, call_s: float | None = None) -> None:
        """A call has left `worker`; `call_s` is how long the whole of it took."""
        worker.num_running -= 1
        if call_s is not None:
            self._mean_call_s = self._mean_call_s * _DECAY + call_s * (1 - _DECAY)
        self.pump()

    def pump(self) -> None:
        """Let waiting calls start that can: a worker has room, joined, or is up or down again."""
        for module, queue in list(self._queues.items()):
            while queue and self._start(queue[0]):
                queue.popleft()
            if not queue:
                del self._queues[module]

    def _start(self, waiting: _Waiting) -> bool:
        """Return whether `waiting` need not wait any more."""
        if waiting.pair.done():
            return True
        try:
            pair = self._chooser.choose(waiting.call, waiting.avoid)
        except RoutingError as error:
            waiting.pair.set_exception(error)
            return True
        if pair is not None:
            waiting.pair.set_result(pair)
        return pair is not None

    async def _wait(self, call: Call, avoid: Collection[str]) -> Pair:
        queue = self._queues.setdefault(call.module, deque())
        if len(queue) >= self._max_queued:
            self._drop_empty(call.module)
            raise self._full(call.module)
        waiting = _Waiting(call=call, avoid=avoid, pair=asyncio.get_running_loop().create_future())
        queue.append(waiting)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(waiting.pair)
        except TimeoutError:
            self._give_up(waiting, queue)
            raise UnavailableError(
                f"no worker had room for model {call.module!r} within {self._timeout_s:g} s: try again later",
                headers={"Retry-After": str(self._retry_after_s(call.module))},
            ) from None
        except asyncio.CancelledError:
            self._give_up(waiting, queue)
            raise

    def _give_up(self, waiting: _Waiting, queue: deque[_Waiting]) -> None:
        if not waiting.pair.done():
            waiting.pair.cancel()
            queue.remove(waiting)
            self._drop_empty(waiting.call.module)
        elif not waiting.pair.exception():
            # The turn came at the very moment of giving up: the pair goes back unused.
            for worker in waiting.pair.result().workers:
                worker.breaker.undecided()
                self.release(worker)

    def _drop_empty(self, module: str) -> None:
        if not self._queues.get(module, True):
            del self._queues[module]

    def _full(self, module: str) -> QueueFullError:
        seconds = self._retry_after_s(module)
        return QueueFullError(
            f"{self.num_queued(module)} calls wait for model {module!r} already: try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    def _retry_after_s(self, module: str) -> int:
        workers = self._pool.replicas(module) or self._pool.prefill()
        room = sum(worker.max_running for worker in workers if worker.is_available)
        estimate = self._mean_call_s * (self.num_queued(module) + 1) / max(room, 1)
        return min(max(math.ceil(estimate), 1), _MAX_RETRY_AFTER_S)
