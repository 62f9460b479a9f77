"""The workers of one launch, for moves: their one router, and the file from which it knows them.

At every moment the file names the workers that run, or are about to: a router that is killed and started again in the
middle of a move neither misses nor doubles one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from urllib.parse import quote

import httpx

from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.roles.report import ROLES_PATH, MoveReport
from prefillshare.serving.machine.ports import release
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.plan.move import plan_in_place, worker_of_kind
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run.moves import Order
from prefillshare.serving.run.router_calls import call_router
from prefillshare.serving.run.router_process import RouterFile, describe_worker


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
        self._deployment = deployment
        self._options = options
        self._file = file
        self._url = url
        self._resting: set[int] = set()
        """Ports of the worker before, at which others may still look for it; until the next move."""

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
        worker = worker_of_kind(self._deployment, module, [planned.worker.name for planned in self.workers])
        return plan_in_place(self._deployment, before, worker, self._options, self._file.path.parent)

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

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response | None:
        return call_router(self._url, self._options.admin_key, method, path, body)
