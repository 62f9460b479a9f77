"""The parts of one router, put together, and what changes its workers."""

import asyncio
import time
from typing import Any

import aiohttp

from prefillshare.observe.document import EventKind
from prefillshare.observe.observer import Observer
from prefillshare.routing.call.proxy import Proxy
from prefillshare.routing.call.tracing import Tracing
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.choice.choice import Chooser
from prefillshare.routing.choice.policies import make_policy
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.descriptors import Descriptors
from prefillshare.routing.errors import ConflictError, NotFoundError
from prefillshare.routing.monitor import Monitor
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.workers.client import WorkerClient
from prefillshare.routing.workers.health import Health
from prefillshare.routing.workers.kv_events import Evictions, KvEvents
from prefillshare.routing.workers.worker import Worker, WorkerPool, WorkerSpec
from prefillshare.wire.errors import error_text

_POLL_S = 0.02


class Gateway:
    """One router; must be made inside the event loop that runs it."""

    def __init__(self, settings: RouterSettings) -> None:
        router = settings.router
        self.settings = settings
        self.is_draining = False
        self.descriptors = Descriptors(settings.max_open_files, len(settings.workers))
        self.pool = WorkerPool()
        self.observer = Observer()
        self.sessions = Sessions(router.max_sessions, moved=self._session_moved)
        self.chooser = Chooser(router, self.pool, make_policy(router, self.sessions))
        self.admission = Admission(router, self.pool, self.chooser)
        self.client = WorkerClient(router, settings.worker_api_key, self.descriptors)
        self.health = Health(router, self.client, settings.base_model, changed=self._state_changed)
        self.kv_events = KvEvents(self._evicted)
        self.tracing = Tracing(settings.otlp_endpoint)
        self.proxy = Proxy(
            router,
            base=settings.base_model,
            client=self.client,
            chooser=self.chooser,
            admission=self.admission,
            health=self.health,
            observer=self.observer,
            tracing=self.tracing,
        )
        self.monitor = Monitor(
            settings,
            self.observer,
            pool=self.pool,
            client=self.client,
            sessions=self.sessions,
            admission=self.admission,
            proxy=self.proxy,
        )
        for spec in settings.workers:
            self.join(spec)

    def join(self, spec: WorkerSpec) -> Worker:
        """Let a worker join; it gets calls once it is up.

        Raises: ConflictError when one of that id is there.
        """
        if self.pool.get(spec.id) is not None:
            raise ConflictError(f"worker {spec.id!r} is there already: remove it first, or choose another id")
        worker = Worker(spec, self.settings.router)
        self.pool.add(worker)
        self.health.watch(worker)
        self.kv_events.watch(worker)
        self.observer.events.tell("worker_joined", worker.id, f"{spec.role} worker at {spec.url}")
        return worker

    async def leave(self, worker_id: str) -> dict[str, Any]:
        """Let a worker finish its calls, at most for drain_timeout_s, and forget it; return what became of it.

        Raises: NotFoundError.
        """
        worker = self.pool.get(worker_id)
        if worker is None:
            known = ", ".join(worker.id for worker in self.pool) or "none"
            raise NotFoundError(f"there is no worker {worker_id!r}; there are: {known}")
        worker.set_state("draining", "it was told to leave")
        self.admission.pump()
        await self._wait_until(lambda: worker.num_running == 0)
        if self.pool.get(worker_id) is worker:
            self.pool.remove(worker)
            self.chooser.index.forget(worker_id)
            self.sessions.forget(worker_id)
            await self._unwatch(worker)
            self.observer.events.tell("worker_left", worker_id, "it was told to leave")
            self.admission.pump()
        return {"id": worker_id, "unfinished": worker.num_running}

    async def drain(self) -> None:
        """Take no further calls and let the running ones finish, at most for drain_timeout_s."""
        self.is_draining = True
        await self._wait_until(lambda: self.proxy.num_running == 0)

    async def close(self) -> None:
        """Stop everything."""
        for worker in list(self.pool):
            await self._unwatch(worker)
        self.kv_events.close()
        await self.client.close()
        await self.tracing.close()

    async def ask_all(self, path: str, *, method: str, timeout_s: float) -> dict[str, dict[str, Any]]:
        """Send a request to every worker at once; return status and text by worker id, status 0 for no answer."""
        workers = list(self.pool)
        replies = await asyncio.gather(*(self._ask(worker, path, method, timeout_s) for worker in workers))
        return {worker.id: reply for worker, reply in zip(workers, replies, strict=True)}

    async def _ask(self, worker: Worker, path: str, method: str, timeout_s: float) -> dict[str, Any]:
        try:
            status, content = await self.client.fetch(worker, path, method=method, timeout_s=timeout_s)
        except TimeoutError:
            return {"status": 0, "text": f"no answer within {timeout_s:g} s"}
        except (aiohttp.ClientError, OSError) as error:
            return {"status": 0, "text": str(error)}
        return {"status": status, "text": error_text(content) if content else ""}

    async def _wait_until(self, condition: Any) -> None:
        deadline = time.monotonic() + self.settings.router.drain_timeout_s
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)

    async def _unwatch(self, worker: Worker) -> None:
        await self.health.unwatch(worker)
        await self.kv_events.unwatch(worker)

    def _evicted(self, worker: Worker, found: Evictions) -> None:
        if found.is_cleared:
            self.chooser.index.forget(worker.id)
        self.chooser.index.drop(worker.id, found.num_tokens * self.chooser.bytes_per_token)

    def _session_moved(self, session: str, before: str, now: str) -> None:
        self.observer.sessions.repinned(session)
        self.observer.events.tell("repin", session, f"moved from {before} to {now}")

    def _state_changed(self, worker: Worker) -> None:
        kind: EventKind = "worker_up" if worker.state == "up" else "worker_down"
        self.observer.events.tell(kind, worker.id, worker.reason or f"the {worker.spec.role} worker serves")
        if worker.state == "down":
            # Whatever it held is gone if it died; if it was only slow, it is learned again.
            self.chooser.index.forget(worker.id)
        self.admission.pump()
