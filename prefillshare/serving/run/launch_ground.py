"""The workers of one launch, for moves and changes of modules: their one router, and the file from which it knows them.

At every moment the file names the workers that run, or are about to: a router that is killed and started again in the
middle of a move or a change neither misses nor doubles one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import httpx

from prefillshare.contract import CHANGES_PATH
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.roles.report import ROLES_PATH, MoveReport
from prefillshare.serving.machine.ports import all_or_none, release
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.move import plan_beside, plan_in_place, worker_of_kind
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run.moves import Order
from prefillshare.serving.run.router_calls import call_router
from prefillshare.serving.run.router_process import RouterFile, describe_worker

_GRACE_S = 5.0
"""Beyond the time that a router waits for a worker's calls."""


class LaunchGround:
    """The workers of one launch."""

    def __init__(
        self,
        deployment: ResolvedDeployment,
        options: LaunchOptions,
        workers: Sequence[PlannedWorker],
        file: RouterFile,
        url: str,
    ) -> None:
        """`url` is the router's; the admin key of `options` lets its workers be changed."""
        self.workers = tuple(workers)
        self.deployment = deployment
        self._options = options
        self._file = file
        self._url = url
        self._resting: set[int] = set()
        """Ports of workers that went last, at which others may still look for them; until further ones go."""

    @property
    def aliases_file(self) -> Path:
        """Where the router keeps what has changed about its aliases."""
        return self._file.aliases_file

    def ask_order(self) -> Order | None:
        """Return the order that may be carried out now."""
        reply = self._send("GET", ROLES_PATH)
        if reply is None or not reply.is_success:
            return None
        order: Order | None = reply.json()["order"]
        if order is None or order["worker"] not in {planned.worker.name for planned in self.workers}:
            return None
        # `moving`: the router heard that it was begun, and its answer was lost.
        return order if order["state"] in ("open", "moving") else None

    def plan(self, before: PlannedWorker, module: str | None) -> PlannedWorker:
        """Return a worker with a name of its own in the place of another one."""
        worker = worker_of_kind(self.deployment, module, [planned.worker.name for planned in self.workers])
        with all_or_none():
            return plan_in_place(self.deployment, before, worker, self._options, self._file.path.parent)

    def renew(self, before: PlannedWorker) -> PlannedWorker:
        """Return the worker as it was."""
        return before

    def exchange(self, gone: PlannedWorker, come: PlannedWorker) -> None:
        """Let a router that is started again know the one that comes."""
        self.workers = tuple(come if planned is gone else planned for planned in self.workers)
        release(self._resting.difference(come.place.held_ports))
        self._resting = set(gone.place.held_ports).difference(come.place.held_ports)
        self._file.name_workers(self.workers)

    def let_in(self, come: PlannedWorker, gone: PlannedWorker) -> bool:
        """Tell the router of the worker; one that was started again in between knows it, or the one that has gone."""
        self._send("DELETE", f"/workers/{quote(gone.worker.name)}")
        reply = self._send("POST", "/workers", describe_worker(come))
        return reply is not None and (reply.is_success or reply.status_code == httpx.codes.CONFLICT)

    def report(self, report: MoveReport) -> int:
        """Tell the router."""
        reply = self._send("PUT", ROLES_PATH, asdict(report))
        return 0 if reply is None else reply.status_code

    def find_wish(self) -> Path | None:
        """Return the oldest of the router's wishes; None while it has none."""
        return min(self._file.changes_folder.glob("*.wish"), key=_age, default=None)

    def tell_change(self, told: Mapping[str, object]) -> None:
        """Tell the router what became of a wish."""
        self._send("PUT", CHANGES_PATH, told)

    def plan_more(self, deployment: ResolvedDeployment, module: str, number: int) -> list[PlannedWorker]:
        """Return further workers of a module of `deployment`, beside those that run.

        Raises: ConfigError when the machine has no room for them.
        """
        planned: list[PlannedWorker] = []
        with all_or_none():
            for _ in range(number):
                taken = [each.worker.name for each in (*self.workers, *planned)]
                worker = worker_of_kind(deployment, module, taken)
                planned.append(
                    plan_beside(deployment, (*self.workers, *planned), worker, self._options, self._file.path.parent)
                )
        return planned

    def add(self, planned: Sequence[PlannedWorker]) -> None:
        """Let a router that is started again know further workers."""
        self.workers = (*self.workers, *planned)
        self._file.name_workers(self.workers)

    def drop(self, planned: Sequence[PlannedWorker]) -> None:
        """Let a router that is started again know these no more."""
        release(self._resting)
        self._resting = {port for each in planned for port in (each.place.port, *each.place.held_ports)}
        gone = {each.worker.name for each in planned}
        self.workers = tuple(each for each in self.workers if each.worker.name not in gone)
        self._file.name_workers(self.workers)

    def note_modules(self) -> None:
        """Let a router that is started again know the modules as they are now."""
        self._file.name_workers(self.workers, [module.name for module in self.deployment.config.decode])

    def is_up(self, planned: PlannedWorker) -> bool:
        """Let the router know a worker, and return whether it gives it calls."""
        reply = self._send("GET", "/workers")
        if reply is None or not reply.is_success:
            return False
        states = {worker["id"]: worker["state"] for worker in reply.json()["workers"]}
        if planned.worker.name not in states:
            self._send("POST", "/workers", describe_worker(planned))
        return states.get(planned.worker.name) == "up"

    def dismiss(self, planned: PlannedWorker) -> bool:
        """Let the router end its calls of a worker and forget it; return whether it has."""
        reply = call_router(
            self._url,
            self._options.admin_key,
            "DELETE",
            f"/workers/{quote(planned.worker.name)}",
            timeout_s=self.deployment.config.router.drain_timeout_s + _GRACE_S,
        )
        return reply is not None and (reply.is_success or reply.status_code == httpx.codes.NOT_FOUND)

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response | None:
        return call_router(self._url, self._options.admin_key, method, path, body)


def _age(file: Path) -> tuple[int, str]:
    try:
        return file.stat().st_mtime_ns, file.name
    except OSError:
        return 0, file.name
