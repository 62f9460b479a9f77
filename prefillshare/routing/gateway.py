"""One router: what answers calls, who joins and leaves the workers, and how it stops."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from prefillshare.responses.kept import KeptResponses
from prefillshare.routing.call.choosing import Choices
from prefillshare.routing.call.proxy import Proxy
from prefillshare.routing.changes.desk import ChangeDesk
from prefillshare.routing.eager.answers import EagerAnswers
from prefillshare.routing.errors import ConflictError, GoneError, NotFoundError
from prefillshare.routing.parts import make_parts
from prefillshare.routing.peers.forward import make_peers
from prefillshare.routing.roles.conductor import Conductor
from prefillshare.routing.settings import RouterSettings
from prefillshare.routing.workers.announced import Announcements
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from prefillshare.tenants.roster import Roster

_POLL_S = 0.02
_SWEEP_S = 5.0
"""Pause between two looks for workers that are not heard of any more."""


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
        self.choices = Choices(self.parts)
        self.responses = KeptResponses(settings.responses)
        self.conductor: Conductor | None = None
        self.peers = make_peers(
            self.parts,
            num_running=lambda: self.proxy.num_running,
            is_moving=lambda: self.conductor is not None and self.conductor.order is not None,
        )
        self.tenants = Roster(settings.tenants_file) if settings.tenants_file is not None else None
        self._looking = asyncio.create_task(self.tenants.keep_looking()) if self.tenants is not None else None
        self.announcements = Announcements()
        self.desk = ChangeDesk(folder=settings.changes_dir)
        self.conductor = self._make_conductor()
        self._sweeping = asyncio.create_task(self._keep_sweeping())
        hold_s = settings.router.start_hold_s
        self._hold_end = asyncio.get_running_loop().call_later(hold_s, self.parts.admission.end_start_hold)
        for spec in settings.workers:
            self.join(spec)

    @property
    def num_running(self) -> int:
        """Calls that are being answered, those that were passed on to other routers included."""
        own = self.proxy.num_running + self.choices.num_running
        return own + (self.peers.num_underway if self.peers else 0)

    def _make_conductor(self) -> Conductor | None:
        roles = self.parts.settings.roles
        if not roles.follow_load:
            return None
        return Conductor(self.parts, roles, take_out=self._forget, is_deciding=self._may_decide)

    def _may_decide(self) -> bool:
        """Whether no router with an earlier address is there, and none that decided before it came has a move on its
        way: two moves at once could take a pool's last worker."""
        own, peers = self.parts.settings.own_address, [peer for peer in self.peers or () if peer.state == "up"]
        is_first = not any(peer.address < own for peer in peers)
        return is_first and not any(peer.report is not None and peer.report.is_moving for peer in peers)

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
        parts.observer.events.tell("worker_joined", worker.id, f"{spec.kind} at {spec.url}")
        return worker

    async def announce(self, spec: WorkerSpec) -> tuple[Worker, bool]:
        """Hear that a worker is there, as it says every few seconds; return it, and whether it joined by that.

        Raises: GoneError when it was told to leave, ConflictError when another has its name or it serves other weights.
        """
        if self.announcements.is_dismissed(spec):
            raise GoneError(f"worker {spec.id!r} was told to leave: start it anew to let it join again")
        self.check_fingerprint(spec)
        there = self.parts.pool.get(spec.id)
        if there is not None and there.spec != spec:
            # Started anew, it has other ports and another key. While the one before answers, it is somebody else.
            if there.state in ("up", "draining") or spec.id not in self.announcements:
                raise ConflictError(
                    f"worker {spec.id!r} is there already, at {there.spec.url}: give this one another name"
                )
            await self._forget(there, "another process announced itself under its name")
            there = None
        self.announcements.hear(spec)
        return there or self.join(spec), there is None

    def check_fingerprint(self, spec: WorkerSpec) -> None:
        """Raises: ConflictError when a worker has another prefill module than this router's deployment."""
        own = self.parts.settings.fingerprint
        if None not in (own, spec.fingerprint) and own != spec.fingerprint:
            raise ConflictError(
                f"worker {spec.id!r} has the prefill module {spec.fingerprint}, this router's deployment {own}: start "
                "both from the same files"
            )

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
            self.announcements.dismiss(worker.spec)
            await self._forget(worker, "it was told to leave")
        return Farewell(id=worker_id, unfinished=worker.num_running)

    async def sweep(self) -> None:
        """Forget workers that neither announce themselves nor answer."""
        for worker_id in self.announcements.silent():
            worker = self.parts.pool.get(worker_id)
            if worker is not None and worker.state in ("starting", "down"):
                await self._forget(worker, "it neither answers nor announces itself any more")

    async def drain(self) -> None:
        """Take no further calls and let the running ones finish, at most for drain_timeout_s."""
        self.is_draining = True
        if self.peers is not None:
            self.peers.exchange.is_draining = True
        await self._wait_until(lambda: self.num_running == 0)

    async def close(self) -> None:
        """Stop everything: first what asks workers by itself, then the connections that it asks them over."""
        self._sweeping.cancel()
        if self._looking is not None:
            self._looking.cancel()
        self._hold_end.cancel()
        await self.responses.close()
        if self.conductor is not None:
            await self.conductor.close()
        if self.peers is not None:
            await self.peers.close()
        if self.eager is not None:
            await self.eager.close()
        for worker in list(self.parts.pool):
            await self._unwatch(worker)
        self.parts.kv_events.close()
        await self.parts.client.close()
        await self.parts.tracing.close()

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            await self.sweep()

    async def _forget(self, worker: Worker, reason: str) -> None:
        parts = self.parts
        self.announcements.forget(worker.id)
        parts.pool.remove(worker)
        parts.chooser.forget(worker.id)
        parts.sessions.forget(worker.id)
        await self._unwatch(worker)
        parts.client.forget(worker)
        parts.observer.events.tell("worker_left", worker.id, reason)
        parts.admission.start_waiting()

    async def _unwatch(self, worker: Worker) -> None:
        await self.parts.health.unwatch(worker)
        await self.parts.kv_events.unwatch(worker)

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + self.parts.settings.router.drain_timeout_s
        while not condition() and time.monotonic() < deadline:
            await asyncio.sleep(_POLL_S)
