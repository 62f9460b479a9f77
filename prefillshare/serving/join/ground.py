"""A worker that joined from elsewhere, for moves: any of several routers may give the order, all hear of the new role.

It keeps its address, and its name where it was given one.
"""

import secrets
from collections.abc import Callable
from dataclasses import asdict

from prefillshare.errors import ConfigError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.roles.report import ROLES_PATH, MoveReport
from prefillshare.serving.join.announcer import Announcer
from prefillshare.serving.machine.ports import all_or_none, release
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.processes import PlannedWorker, plan_joining_worker
from prefillshare.serving.plan.workers import Worker
from prefillshare.serving.run.moves import Order
from prefillshare.serving.run.router_calls import call_router

_DRAIN_S = 30.0

Choose = Callable[[str | None], Worker]
"""Makes the worker of a module, a prefill worker for None. Raises: ConfigError where it may not be one."""
Describe = Callable[[PlannedWorker], dict[str, object]]
"""What routers are told of a worker."""


class JoinGround:
    """One worker, and the routers that it announces itself to."""

    def __init__(
        self,
        deployment: ResolvedDeployment,
        options: LaunchOptions,
        planned: PlannedWorker,
        announcer: Announcer,
        *,
        choose: Choose | None,
        describe: Describe,
    ) -> None:
        self.workers = (planned,)
        self._deployment = deployment
        self._options = options
        self._announcer = announcer
        self._choose = choose
        self._describe = describe
        self._router = ""
        self._resting: tuple[int, ...] = ()
        """Ports of the worker before, at which others may still look for it; until the next move."""

    def ask_order(self) -> Order | None:
        """Return what the last answers to announcements said."""
        if self._announcer.order is None:
            return None
        self._router, order = self._announcer.order
        self._announcer.order = None
        return order if order["worker"] == self.workers[0].worker.name else None

    def plan(self, before: PlannedWorker, module: str | None) -> PlannedWorker:
        """Return the worker in its other role, with a key of its own: routers take it for another one."""
        if self._choose is None:
            raise ConfigError("it was not started for any role: start it with --any-role")
        return self._plan(self._choose(module))

    def renew(self, before: PlannedWorker) -> PlannedWorker:
        """Return the worker with another key: under its old one, routers know that it has left."""
        release(self._resting)  # what rested there has ended, and this one may need the ports
        self._resting = ()
        return self._plan(before.worker)

    def exchange(self, gone: PlannedWorker, come: PlannedWorker) -> None:
        """Leave the routers that did not give the order; the one that did has let the worker go already."""
        self.workers = (come,)
        release(self._resting)
        self._resting = gone.place.held_ports
        self._announcer.leave(_DRAIN_S, besides=self._router)

    def end(self) -> None:
        """Give the ports back of a worker that has ended."""
        release((*self._resting, *self.workers[0].place.held_ports))
        self._resting = ()

    def let_in(self, come: PlannedWorker, gone: PlannedWorker) -> bool:
        """Announce the worker from now on."""
        self._announcer.introduce(self._describe(come))
        return True

    def _plan(self, worker: Worker) -> PlannedWorker:
        key = secrets.token_hex(24)
        with all_or_none():
            return plan_joining_worker(self._deployment, worker, self._options, key, can_move=True)

    def report(self, report: MoveReport) -> int:
        """Tell the router that gave the order."""
        reply = call_router(self._router, self._options.admin_key, "PUT", ROLES_PATH, asdict(report))
        return 0 if reply is None else reply.status_code
