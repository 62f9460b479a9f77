"""Carries out what the router decided: a worker of this launch is ended and started again in another role.

The router has drained it by then, so no call is lost. At every moment the router's settings file names the workers that
run, or are about to: a router that is killed and started again in the middle of a move neither misses nor doubles one.
Nothing here waits: `step` goes on with the move each time that it is called.

    idle --(the router has an order)--> starting --(it answers)--> idle: done
                                           |
                                           +--(it ended, or takes too long)--> the worker before is started: failed
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

import httpx

from prefillshare.direct import direct_client
from prefillshare.errors import ConfigError, LaunchError
from prefillshare.modules.deployment import ResolvedDeployment
from prefillshare.roles.report import ROLES_PATH, MoveReport, Word
from prefillshare.serving.options import LaunchOptions, Listener, auth_header
from prefillshare.serving.plan.move import plan_in_place, worker_of_kind
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run.router_process import RouterFile, describe_worker
from prefillshare.serving.run.supervisor import Supervised, Supervisor

_ASK_EVERY_S = 1.0
_TIMEOUT_S = 2.0
_CONFLICT = 409

Watch = Callable[[PlannedWorker], Supervised]
"""Makes what looks after a worker."""


@dataclass(slots=True, kw_only=True)
class _Move:
    """A move that was begun."""

    order: str
    before: PlannedWorker
    after: PlannedWorker
    member: Supervised
    """The processes of `after`, or of `before` once it is given up."""
    started_at: float = field(default_factory=time.monotonic)
    failure: str | None = None
    """Why `after` is given up."""


class Mover:
    """Moves the workers of one launch, one at a time."""

    def __init__(
        self,
        deployment: ResolvedDeployment,
        options: LaunchOptions,
        *,
        workers: Sequence[PlannedWorker],
        file: RouterFile,
        supervisor: Supervisor,
        url: str,
        watch: Watch,
        say: Listener,
    ) -> None:
        """`url` is the router's; the admin key of `options` lets it change its workers."""
        self.workers = tuple(workers)
        """Those that run, as they are now."""
        self._deployment = deployment
        self._options = options
        self._file = file
        self._supervisor = supervisor
        self._url = url
        self._watch = watch
        self._say = say
        self._move: _Move | None = None
        self._unreported: MoveReport | None = None
        self._next_at = 0.0

    def step(self) -> None:
        """Look at the move on its way, or ask the router for one, if it is time to."""
        if self._move is not None:
            self._look_after(self._move)
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _ASK_EVERY_S
        if self._unreported is not None:
            self._report(self._unreported)
        elif self._move is not None:
            self._report(_make_report(self._move, "begun"))
        elif (order := self._ask_order()) is not None:
            self._begin(order)

    def _ask_order(self) -> Mapping[str, Any] | None:
        """Return the order that may be taken now, if it is for a worker of this launch."""
        reply = self._send("GET", ROLES_PATH)
        if reply is None or not reply.is_success:
            return None
        order: Mapping[str, Any] | None = reply.json()["order"]
        if order is None or order["worker"] not in {planned.worker.name for planned in self.workers}:
            return None
        # `moving`: the router heard that it was begun, and its answer was lost.
        return order if order["state"] in ("open", "moving") else None

    def _begin(self, order: Mapping[str, Any]) -> None:
        [before] = [planned for planned in self.workers if planned.worker.name == order["worker"]]
        try:
            names = [planned.worker.name for planned in self.workers]
            worker = worker_of_kind(self._deployment, order["after"], names)
            after = plan_in_place(self._deployment, before, worker, self._options, self._file.path.parent)
        except ConfigError as error:
            self._refuse(order, before, str(error))
            return
        move = _Move(order=order["id"], before=before, after=after, member=self._watch(after))
        # Only a router that knows of it may lose the worker: else it is asked again.
        if not self._report(_make_report(move, "begun")):
            return
        self._say(f"{before.worker.name} becomes {worker.name}: {order['reason']}")
        self._exchange(before, after, move.member)
        self._move = move
        self._start(move)

    def _refuse(self, order: Mapping[str, Any], before: PlannedWorker, reason: str) -> None:
        self._say(f"{before.worker.name} stays what it is: {reason}")
        worker, after = before.worker, order["after"]
        self._unreported = MoveReport(
            id=order["id"], worker=worker.name, before=worker.module, after=after, word="failed", message=reason
        )

    def _start(self, move: _Move) -> None:
        try:
            move.member.begin()
        except LaunchError as error:
            self._go_back(move, str(error))

    def _look_after(self, move: _Move) -> None:
        member = move.member
        if move.failure is not None:
            self._let_in(move, "failed", move.before, instead_of=move.after)
        elif member.state == "running" and member.num_restarts == 0:
            self._let_in(move, "done", move.after, instead_of=move.before)
        elif member.num_restarts or member.process is None or member.process.exit_code() is not None:
            self._go_back(move, member.reason())
        elif time.monotonic() - move.started_at > self._options.start_timeout_s:
            self._go_back(move, f"it did not answer within {self._options.start_timeout_s:.0f} s")

    def _go_back(self, move: _Move, reason: str) -> None:
        """Start again what was there. From now on its supervisor sees to it, as to every worker that dies."""
        self._say(f"{move.after.worker.name} did not come up ({reason}): {move.before.worker.name} is started again")
        member = self._watch(move.before)
        self._exchange(move.after, move.before, member)
        move.failure, move.member = reason, member
        try:
            member.begin()
        except LaunchError as error:
            move.failure = f"{reason}; nor could it be started as before: {error}"

    def _exchange(self, gone: PlannedWorker, come: PlannedWorker, member: Supervised) -> None:
        """End a worker and let another one take its place, among the members and in the file."""
        members = self._supervisor.members
        [place] = [number for number, found in enumerate(members) if found.name == gone.worker.name]
        old, members[place] = members[place], member
        self.workers = tuple(come if planned is gone else planned for planned in self.workers)
        self._file.name_workers(self.workers)
        if old.process is not None:
            old.process.kill()

    def _let_in(self, move: _Move, word: Word, planned: PlannedWorker, instead_of: PlannedWorker) -> None:
        """Tell the router of the worker that runs now.

        One that was started again meanwhile may know it from the file already, or the one before from an older file.
        """
        self._send("DELETE", f"/workers/{quote(instead_of.worker.name)}")
        reply = self._send("POST", "/workers", describe_worker(planned))
        if reply is None or not (reply.is_success or reply.status_code == _CONFLICT):
            return  # asked again with the next step
        self._move = None
        self._unreported = _make_report(move, word)
        if word == "done":
            self._say(f"{move.before.worker.name} is {planned.worker.name} after {self._unreported.seconds:.1f} s")

    def _report(self, report: MoveReport) -> bool:
        """Tell the router; return whether it heard. The end of a move is told until it has."""
        reply = self._send("PUT", ROLES_PATH, asdict(report))
        has_heard = reply is not None and reply.status_code < httpx.codes.INTERNAL_SERVER_ERROR
        if has_heard and report is self._unreported:
            self._unreported = None
        return reply is not None and reply.is_success

    def _send(self, method: str, path: str, body: Mapping[str, object] | None = None) -> httpx.Response | None:
        try:
            with direct_client(headers=auth_header(self._options.admin_key), timeout=_TIMEOUT_S) as client:
                return client.request(method, self._url + path, json=body)
        except httpx.HTTPError:
            return None


def _make_report(move: _Move, word: Word) -> MoveReport:
    return MoveReport(
        id=move.order,
        worker=move.before.worker.name,
        before=move.before.worker.module,
        after=move.after.worker.module,
        word=word,
        seconds=time.monotonic() - move.started_at if word == "done" else None,
        message=move.failure,
    )
