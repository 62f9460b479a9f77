"""One router: what answers calls, who joins and leaves the workers, and how it stops."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from prefillshare.routing.call.proxy import Proxy
from prefillshare.routing.eager.answers import EagerAnswers
from prefillshare.routing.errors import ConflictError, NotFoundError
from prefillshare.routing.parts import make_parts
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker

_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell:
    """What became of a worker that was told to leave."""

    id: str
    """Name of the worker."""
    unfinished: int
    """Calls that it still had when its time was over."""


class Gateway:
    """One router; must be made inside the event loop that runs it."""

    def __init__(self, settings: RouterSettings) -> None:
        self.is_draining = False
        self.parts = make_parts(settings)
        self.eager = EagerAnswers(self.parts) if settings.eager_answers else None
        self.proxy = Proxy(self.parts, self.eager)
        for spec in settings.workers:
            self.join(spec)

    def join(self, spec: WorkerSpec) -> Worker:
        """Let a worker join; it gets calls once it is up.

        Raises: ConflictError when one of that id is there.
        """
        parts = self.parts
        if parts.pool.get(spec.id) is not None:
            raise ConflictError(f"worker {spec.id!r} is there already: remove it first, or choose another id")
        worker = Worker(spec, parts.settings.router)
        parts.pool.add(worker)
        parts.health.watch(worker)
        parts.kv_events.watch(worker)
        parts.observer.events.tell("worker_joined", worker.id, f"{spec.role} worker at {spec.url}")
        return worker

    async def leave(self, worker_id: str) -> Farewell:
        """Let a worker finish its calls, at most for drain_timeout_s, and forget it.

        Raises: NotFoundError.
        """
        pool = self.parts.pool
        worker = pool.get(worker_id)
        if worker is None:
            known = ", ".join(worker.id for worker in pool) or "none"
            raise NotFoundError(f"there is no worker {worker_id!r}; there are: {known}")
        worker.set_state("draining", "it was told to leave")
        self.parts.admission.start_waiting()  # who waited for it alone hears that there is nobody
        await self._wait_until(lambda: worker.num_running == 0)
        # Somebody else may have told it to leave meanwhile, and another of that name may have joined.
        if pool.get(worker_id) is worker:
            await self._forget(worker)
        return Farewell(id=worker_id, unfinished=worker.num_running)

    async def drain(self) -> None:
        """Take no further calls and let the running ones finish, at most for drain_timeout_s."""
        self.is_draining = True
        await self._wait_until(lambda: self.proxy.num_running == 0)

    async def close(self) -> None:
        """Stop everything: first what asks workers by itself, then the connections that it asks them over."""
        if self.eager is not None:
            await self.eager.close()
        for worker in list(self.parts.pool):
            await self._unwatch(worker)
        self.parts.kv_events.close()
        await self.parts.client.close()
        await self.parts.tracing.close()

    async def _forget(self, worker: Worker) -> None:
        parts = self.parts
        parts.pool.remove(worker)
        parts.chooser.index.forget(worker.id)
        parts.sessions.forget(worker.id)
        await self._unwatch(worker)
        parts.observer.events.tell("worker_left", worker.id, "it was told to leave")
        parts.admission.start_waiting()

    async def _unwatch(self, worker: Worker) -> None:
        await self.parts.health.unwatch(worker)
        await self.parts.kv_events.unwatch(worker)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.parts.settings.router.drain_timeout_s
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
