"""Bounded queues before the workers: one per decode module, first come first served."""

import asyncio
import math
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass

from prefillshare.config.router import Router
from prefillshare.routing.choice.chooser import Chooser, Pair
from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.start_hold import StartHold
from prefillshare.routing.errors import QueueFullError, RoutingError, UnavailableError
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.worker import Worker

_DECAY = 0.9
_MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Waiting:
    demand: Demand
    avoid: Collection[str]
    pair: "asyncio.Future[Pair]"
    since: float


class Admission:
    """Hands out reserved pairs of workers, at once or in turn."""

    def __init__(
        self, settings: Router, pool: WorkerPool, chooser: Chooser, start_hold: StartHold | None = None
    ) -> None:
        """`start_hold` lets calls wait for workers that are not known yet, until `end_start_hold`."""
        self._start_hold = start_hold
        self._max_queued = settings.max_queued_per_module
        self._timeout_s = settings.queue_timeout_s
        self._pool = pool
        self._chooser = chooser
        self._queues: dict[str, deque[_Waiting]] = {}  # a queue is there only while somebody waits in it
        self._mean_call_s = 1.0

    def num_queued(self, module: str | None = None) -> int:
        """Return how many calls wait, for `module` or altogether."""
        return sum(len(queue) for name, queue in self._queues.items() if module in (None, name))

    def oldest_wait_s(self, module: str) -> float:
        """Return how long the first in the queue of `module` has waited; 0 when nobody waits."""
        queue = self._queues.get(module)
        return asyncio.get_running_loop().time() - queue[0].since if queue else 0.0

    async def acquire(self, demand: Demand, avoid: Collection[str] = ()) -> Pair:
        """Return a reserved pair for `demand`, waiting in its module's queue if need be.

        Raises: UnavailableError when a worker that it needs is not up or the wait was too long; QueueFullError.
        """
        # Whoever comes while others wait must not pass them, though there may be room at this moment.
        if demand.module not in self._queues:
            pair = self._choose(demand, avoid)
            if pair is not None:
                return pair
        return await self._wait(demand, avoid)

    def release(self, worker: Worker, call_s: float | None = None) -> None:
        """Give back a place at `worker`; `call_s` is how long the whole call took."""
        worker.num_running -= 1
        if call_s is not None:
            self._mean_call_s = self._mean_call_s * _DECAY + call_s * (1 - _DECAY)
        self.start_waiting()

    def end_start_hold(self) -> None:
        """Let calls wait no longer for workers that are not known: who has waited in vain hears so."""
        # Said once, and not read from a clock: a timer that is early would leave them waiting for nothing.
        self._start_hold = None
        self.start_waiting()

    def start_waiting(self) -> None:
        """Let waiting calls start that can: a worker has room, joined, or is up or down again."""
        for module, queue in list(self._queues.items()):
            while queue and self._can_go(queue[0]):
                queue.popleft()
            if not queue:
                del self._queues[module]

    def _can_go(self, waiting: _Waiting) -> bool:
        """Return whether `waiting` need not wait any more: it has a pair, or its error."""
        if waiting.pair.done():
            return True
        try:
            pair = self._choose(waiting.demand, waiting.avoid)
        except RoutingError as error:
            waiting.pair.set_exception(error)
            return True
        if pair is not None:
            waiting.pair.set_result(pair)
        return pair is not None

    def _choose(self, demand: Demand, avoid: Collection[str]) -> Pair | None:
        """Return a reserved pair; None while `demand` is to wait for one.

        Raises: UnavailableError.
        """
        try:
            return self._chooser.choose(demand, avoid)
        except UnavailableError:
            if self._start_hold is not None and self._start_hold.is_for(demand):
                return None
            raise

    async def _wait(self, demand: Demand, avoid: Collection[str]) -> Pair:
        queue = self._queues.setdefault(demand.module, deque())
        if len(queue) >= self._max_queued:
            self._drop_empty(demand.module)
            raise self._make_refusal(demand)
        loop = asyncio.get_running_loop()
        waiting = _Waiting(demand=demand, avoid=avoid, pair=loop.create_future(), since=loop.time())
        queue.append(waiting)
        try:
            async with asyncio.timeout(self._timeout_s):
                # Shielded: a pair that was set in the moment of a cancellation must still be there to give back.
                return await asyncio.shield(waiting.pair)
        except TimeoutError:
            self._give_up(waiting, queue)
            raise UnavailableError(
                f"no worker had room for model {demand.asked!r} within {self._timeout_s:g} s: try again later",
                headers={"Retry-After": str(self._retry_after_s(demand.module))},
            ) from None
        except asyncio.CancelledError:
            self._give_up(waiting, queue)
            raise

    def _give_up(self, waiting: _Waiting, queue: deque[_Waiting]) -> None:
        if not waiting.pair.done():
            waiting.pair.cancel()
            queue.remove(waiting)
            self._drop_empty(waiting.demand.module)
        elif not waiting.pair.exception():
            # The turn came at the very moment of giving up: the pair goes back unused.
            for worker in waiting.pair.result().workers:
                worker.breaker.record_nothing()
                self.release(worker)

    def _drop_empty(self, module: str) -> None:
        if not self._queues.get(module, True):
            del self._queues[module]

    def _make_refusal(self, demand: Demand) -> QueueFullError:
        seconds = self._retry_after_s(demand.module)
        return QueueFullError(
            f"{self.num_queued(demand.module)} calls wait for model {demand.asked!r} already: try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )

    def _retry_after_s(self, module: str) -> int:
        workers = self._pool.replicas(module) or self._pool.prefill()
        room = sum(worker.max_running for worker in workers if worker.is_available)
        estimate = self._mean_call_s * (self.num_queued(module) + 1) / max(room, 1)
        return min(max(math.ceil(estimate), 1), _MAX_RETRY_AFTER_S)
