"""Carries out what the router decided: a worker is ended and started again in another role.

The router has drained it by then, so no call is lost. Nothing here waits: `step` goes on with the move each time that
it is called, beside the supervisor.

    idle --(a router has an order)--> starting --(it answers)--> idle: done
                                         |
                                         +--(it ended, or takes too long)--> the worker before is started: failed

What differs between the workers of a launch and one that joined from elsewhere is its `Ground`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from prefillshare.errors import ConfigError, LaunchError
from prefillshare.roles.report import MoveReport, Word
from prefillshare.serving.machine.ports import release
from prefillshare.serving.options import Listener
from prefillshare.serving.plan.processes import PlannedWorker
from prefillshare.serving.run.supervisor import Supervised, Supervisor

_SPEAK_EVERY_S = 1.0

Watch = Callable[[PlannedWorker], Supervised]
"""Makes what looks after a worker."""
Order = Mapping[str, Any]
"""An order, as `GET /router/roles` shows it."""


class Ground(Protocol):
    """Whose workers are moved, and how their routers hear of it."""

    @property
    def workers(self) -> tuple[PlannedWorker, ...]:
        """Those that run."""
        ...

    def ask_order(self) -> Order | None:
        """Return the order that may be carried out now, if there is one for a worker of `workers`."""
        ...

    def plan(self, before: PlannedWorker, module: str | None) -> PlannedWorker:
        """Return a worker of a module, a prefill worker for None, in the place of another one.

        Raises: ConfigError, and LaunchError when no port is free for it.
        """
        ...

    def renew(self, before: PlannedWorker) -> PlannedWorker:
        """Return the worker as it is started when it could not become another one."""
        ...

    def exchange(self, gone: PlannedWorker, come: PlannedWorker) -> None:
        """Note that one worker runs, or is about to, in the place of another one, which still does."""
        ...

    def let_in(self, come: PlannedWorker, gone: PlannedWorker) -> bool:
        """Tell the routers of the worker that is there now; return whether they know it."""
        ...

    def report(self, report: MoveReport) -> int:
        """Tell the router that gave the order; return the status of its answer, 0 without one."""
        ...


@dataclass(slots=True, kw_only=True)
class _Move:
    """A move that was begun."""

    order: str
    before: PlannedWorker
    after: PlannedWorker
    member: Supervised
    """The processes of `after`, or of `before` once `after` is given up."""
    started_at: float = field(default_factory=time.monotonic)
    failure: str | None = None
    """Why `after` is given up."""


class Mover:
    """Moves workers, one at a time."""

    def __init__(
        self, ground: Ground, *, supervisor: Supervisor, watch: Watch, say: Listener, start_timeout_s: float
    ) -> None:
        self._ground = ground
        self._supervisor = supervisor
        self._watch = watch
        self._say = say
        self._start_timeout_s = start_timeout_s
        self._move: _Move | None = None
        self._unreported: MoveReport | None = None
        self._next_at = 0.0

    @property
    def is_moving(self) -> bool:
        """Whether a move is on its way."""
        return self._move is not None

    def step(self) -> None:
        """Look at the move on its way, or for one, if it is time to."""
        if self._move is not None:
            self._look_after(self._move)
        if time.monotonic() < self._next_at:
            return
        self._next_at = time.monotonic() + _SPEAK_EVERY_S
        if self._unreported is not None:
            self._tell_end(self._unreported)
        elif self._move is not None:
            self._ground.report(_make_report(self._move, "begun"))
        elif (order := self._ground.ask_order()) is not None:
            self._begin(order)

    def _begin(self, order: Order) -> None:
        [before] = [planned for planned in self._ground.workers if planned.worker.name == order["worker"]]
        try:
            after = self._ground.plan(before, order["after"])
        except (ConfigError, LaunchError) as error:
            self._refuse(order, before, str(error))
            return
        move = _Move(order=order["id"], before=before, after=after, member=self._watch(after))
        # Only where the router knows of it may the worker go: else it is asked for the order again.
        if self._ground.report(_make_report(move, "begun")) != 200:
            release(set(after.place.held_ports).difference(before.place.held_ports))
            return
        self._say(f"{before.worker.name} becomes {_describe(after)}: {order['reason']}")
        self._move = move
        self._exchange(before, after, move.member)
        try:
            move.member.begin()
        except LaunchError as error:
            self._go_back(move, str(error))

    def _refuse(self, order: Order, before: PlannedWorker, reason: str) -> None:
        self._say(f"{before.worker.name} stays what it is: {reason}")
        worker, after = before.worker, order["after"]
        self._unreported = MoveReport(
            id=order["id"], worker=worker.name, before=worker.module, after=after, word="failed", message=reason
        )

    def _look_after(self, move: _Move) -> None:
        member = move.member
        if move.failure is not None:
            self._let_in(move, "failed", come=move.before, gone=move.after)
        elif member.state == "running" and member.num_restarts == 0:
            self._let_in(move, "done", come=move.after, gone=move.before)
        elif member.num_restarts or member.process is None or member.process.exit_code() is not None:
            self._go_back(move, member.reason())
        elif time.monotonic() - move.started_at > self._start_timeout_s:
            self._go_back(move, f"it did not answer within {self._start_timeout_s:.0f} s")

    def _go_back(self, move: _Move, reason: str) -> None:
        """Start again what was there. From now on its supervisor sees to it, as to every worker that dies."""
        self._say(f"{_describe(move.after)} did not come up ({reason}): {move.before.worker.name} is started as before")
        move.before = self._ground.renew(move.before)
        member = self._watch(move.before)
        self._exchange(move.after, move.before, member)
        move.failure, move.member = reason, member
        try:
            member.begin()
        except LaunchError as error:
            move.failure = f"{reason}; nor could it be started as before: {error}"

    def _exchange(self, gone: PlannedWorker, come: PlannedWorker, member: Supervised) -> None:
        """End a worker and let another one take its place among the members."""
        self._ground.exchange(gone, come)
        members = self._supervisor.members
        [place] = [number for number, found in enumerate(members) if found.name == gone.worker.name]
        old, members[place] = members[place], member
        if old.process is not None:
            old.process.kill()

    def _let_in(self, move: _Move, word: Word, *, come: PlannedWorker, gone: PlannedWorker) -> None:
        if not self._ground.let_in(come, gone):
            return  # tried again with the next step
        self._move, self._unreported = None, _make_report(move, word)
        if word == "done":
            self._say(f"{move.before.worker.name} is {_describe(come)} after {self._unreported.seconds:.1f} s")

    def _tell_end(self, report: MoveReport) -> None:
        """Tell the router until it has heard; whatever it answers then, it has."""
        if 0 < self._ground.report(report) < 500:
            self._unreported = None


def _describe(planned: PlannedWorker) -> str:
    worker = planned.worker
    return f"{worker.name}, a {'prefill worker' if worker.module is None else f'decode worker of {worker.module}'}"


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
