"""A simulated deployment whose workers move as the router's policy decides; a move takes simulated seconds."""

import asyncio
import itertools
from dataclasses import dataclass, replace

from prefillshare.config.roles import Roles
from prefillshare.config.router import Router
from prefillshare.roles import Kind, Move, Policy
from prefillshare.routing.roles.look import take_look
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from prefillshare.simulation.clock import now_s
from prefillshare.simulation.engine.decode import DecodeWorker
from prefillshare.simulation.engine.prefill import PrefillWorker
from prefillshare.simulation.model import WorkerModel
from prefillshare.simulation.system import SimulatedSystem, Size

_URL = "http://127.0.0.1:1"
_POLL_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """One move."""

    at_s: float
    """When it was decided."""
    move: Move
    """What it was."""


class FollowingSystem(SimulatedSystem):
    """A simulated deployment that moves its workers; without `roles.follow_load` they stay."""

    def __init__(
        self, *, modules: tuple[str, ...], size: Size, model: WorkerModel, settings: Router, roles: Roles, move_s: float
    ) -> None:
        """`move_s` is how long a worker is away when it has ended its calls."""
        super().__init__(modules=modules, size=size, model=model, settings=settings)
        self.moved: list[Moved] = []
        self._settings = settings
        self._roles = roles
        self._move_s = move_s
        self._router = self.routers[modules[0]]
        self._policy = Policy(roles.with_places(settings.max_running_per_worker))
        self._numbers = itertools.count()
        for worker in self._router.pool:
            worker.spec = replace(worker.spec, can_move=True)

    @property
    def follows(self) -> bool:
        """Whether its workers move."""
        return self._roles.follow_load

    async def follow(self) -> None:
        """Look and move until cancelled."""
        while True:
            await asyncio.sleep(self._roles.interval_s)
            self._policy.observe(now_s(), take_look(self._router.pool, self._router.admission, now_s()))
            if (move := self._policy.decide(now_s())) is not None:
                self.moved.append(Moved(at_s=now_s(), move=move))
                started_s = now_s()
                await self._carry_out(move)
                self._policy.ended(now_s(), move, seconds=now_s() - started_s)

    def sizes(self) -> dict[Kind, int]:
        """Workers of each kind now."""
        pool = self._router.pool
        return {None: len(pool.prefill()), **{name: len(pool.replicas(name)) for name in pool.modules()}}

    async def _carry_out(self, move: Move) -> None:
        """As `routing.roles.conductor` and the launcher do it together."""
        router = self._router
        worker = router.pool.get(move.worker)
        assert worker is not None
        worker.set_state("draining")
        router.admission.start_waiting()
        while worker.num_running:
            await asyncio.sleep(_POLL_S)
        router.pool.remove(worker)
        router.chooser.index.forget(worker.id)
        router.sessions.forget(worker.id)
        await asyncio.sleep(self._move_s)
        self._let_in(move.after)

    def _let_in(self, kind: Kind) -> None:
        name = f"moved-{next(self._numbers)}"
        if kind is None:
            self.prefill[name] = PrefillWorker(self.model, self.cores)
            spec = WorkerSpec(
                id=name, role="prefill", url=_URL, bootstrap_host="127.0.0.1", bootstrap_port=1, can_move=True
            )
        else:
            self.decode[name] = DecodeWorker(self.model, self.cores)
            spec = WorkerSpec(id=name, role="decode", module=kind, url=_URL, can_move=True)
        self._evicted[name] = 0
        worker = Worker(spec, self._settings, clock=now_s)
        self._router.pool.add(worker)
        worker.set_state("up")
        self._router.admission.start_waiting()
