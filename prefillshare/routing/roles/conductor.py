"""Looks at the load again and again, and sees one move after the other through.

Of several routers the one with the first address of those that are there decides: its sessions are a fair sample of
all, since a hash spreads them. One that begins to decide needs a whole window first.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from prefillshare.config.roles import Roles
from prefillshare.roles import Kind, Move, Policy
from prefillshare.roles.facts import name_kind
from prefillshare.roles.report import MoveReport
from prefillshare.routing.parts import Parts
from prefillshare.routing.roles.look import take_look
from prefillshare.routing.roles.order import Order
from prefillshare.routing.workers.worker import Worker

log = logging.getLogger(__name__)

TAKE_S = 30.0
"""Longest wait for a supervisor to take an order."""
SILENT_S = 60.0
"""A move that was not heard of for so long is over, whatever became of it."""

Outcome = Literal["done", "failed", "would"]
TakeOut = Callable[[Worker, str], Awaitable[None]]


@dataclass(slots=True, kw_only=True)
class MoveCounts:
    """What became of moves since the start."""

    done: int = 0
    """The worker does something else."""
    failed: int = 0
    """It does what it did, or is lost."""
    would: int = 0
    """Only spoken of, with `dry_run`."""


class Conductor:
    """Decides on moves and sees them through; must be made inside the event loop of its router."""

    def __init__(self, parts: Parts, roles: Roles, *, take_out: TakeOut, is_deciding: Callable[[], bool]) -> None:
        """`take_out` forgets a worker whose process is about to end."""
        self.roles = roles
        self.counts = MoveCounts()
        self.order: Order | None = None
        self.is_deciding = is_deciding
        self._parts = parts
        self._take_out = take_out
        self._policy = Policy(roles.with_places(parts.settings.router.max_running_per_worker))
        self._task = asyncio.create_task(self._keep_looking())

    async def close(self) -> None:
        """Look no more; a move on its way is its supervisor's."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def order_for(self, worker_id: str) -> Order | None:
        """Return the order that whoever started this worker may take now."""
        order = self.order
        return order if order is not None and order.state == "open" and order.move.worker == worker_id else None

    async def hear(self, report: MoveReport) -> None:
        """Hear from the supervisor that carries out a move."""
        order = self._find(report)
        order.since = time.monotonic()
        if report.word == "begun":
            await self._begin(order)
        elif report.word == "done":
            self._end(report.seconds or 0.0, f"{_name(order.move)} after {report.seconds or 0.0:.1f} s")
        else:
            self._end(None, report.message or "its supervisor did not say why")

    def figures(self) -> list[dict[str, object]]:
        """Return how every pool stands, for people."""
        now, look = time.monotonic(), take_look(self._parts.pool, self._parts.admission)
        judged = self._policy.figures(now)
        return [
            {
                "pool": name_kind(kind),
                "workers": len(pool.workers),
                "min": self.roles.limits_of(kind).min,
                "max": self.roles.limits_of(kind).max,
                "wait_s": round(pool.wait_s, 3),
                "calls": pool.num_calls,
                "excess": round(found.excess, 3) if (found := judged.get(kind)) else None,
                "load_with_one_less": round(found.load, 3) if found and len(pool.workers) > 1 else None,
            }
            for kind, pool in look.items()
        ]

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self.roles.interval_s)
            try:
                await self._step(time.monotonic())
            except Exception:  # the end of a task: nobody else would hear of it, and roles would stay for ever
                log.exception("the load could not be looked at")

    async def _step(self, now: float) -> None:
        if self.order is not None:
            self._look_after(self.order, now)
        elif self.is_deciding():
            self._policy.observe(now, take_look(self._parts.pool, self._parts.admission, now))
            if (move := self._policy.decide(now)) is not None:
                self._order(now, move)
        else:
            self._policy.observe(now, {})

    def _order(self, now: float, move: Move) -> None:
        if self.roles.dry_run:
            self.counts.would += 1
            self._policy.pause(now)
            self._tell(move, f"would move from {move.text}")
            return
        worker = self._parts.pool.get(move.worker)
        if worker is None:
            return
        self.order = Order(id=uuid.uuid4().hex, move=move, since=now)
        worker.set_state("draining", f"it is to be {_name(move)}")
        self._parts.admission.start_waiting()
        self._tell(move, f"moves from {move.text}")

    def _look_after(self, order: Order, now: float) -> None:
        waited_s, worker = now - order.since, self._parts.pool.get(order.move.worker)
        if order.state == "moving":
            if waited_s > SILENT_S:
                self._end(None, f"its supervisor was not heard of for {SILENT_S:.0f} s")
        elif worker is None or worker.state != "draining":
            self._end(None, "it left, or was started anew, before it could be moved")
        elif order.state == "draining" and worker.num_running == 0:
            order.state, order.since = "open", now
        elif order.state == "draining" and waited_s > (limit_s := self._parts.settings.router.drain_timeout_s):
            self._end(None, f"it still had {worker.num_running} calls after {limit_s:g} s")
        elif order.state == "open" and waited_s > TAKE_S:
            self._end(None, f"nobody took it in hand within {TAKE_S:.0f} s")

    def _find(self, report: MoveReport) -> Order:
        """The order of a report; a router that was started anew in the middle of a move learns of it by this."""
        if self.order is not None and self.order.id == report.id:
            return self.order
        if self.order is not None:
            self._end(None, "another move is on its way")
        move = Move(worker=report.worker, before=report.before, after=report.after, reason="begun before")
        self.order = Order(id=report.id, move=move, state="moving")
        return self.order

    async def _begin(self, order: Order) -> None:
        if order.state == "moving":
            return
        order.state = "moving"
        worker = self._parts.pool.get(order.move.worker)
        if worker is not None:
            await self._take_out(worker, f"it is to be {_name(order.move)}")

    def _end(self, seconds: float | None, message: str) -> None:
        order, self.order = self.order, None
        assert order is not None
        self._policy.ended(time.monotonic(), order.move, seconds=seconds)
        if seconds is not None:
            self.counts.done += 1
            self._tell(order.move, f"is {message}")
            return
        self.counts.failed += 1
        # One that has not been taken yet runs as before.
        worker = self._parts.pool.get(order.move.worker)
        if order.state != "moving" and worker is not None and worker.state == "draining":
            worker.set_state("up")
            self._parts.admission.start_waiting()
        self._tell(order.move, f"could not become {_name(order.move)}: {message}", has_failed=True)

    def _tell(self, move: Move, text: str, *, has_failed: bool = False) -> None:
        log.log(logging.WARNING if has_failed else logging.INFO, "%s %s", move.worker, text)
        self._parts.observer.events.tell("move_failed" if has_failed else "move", move.worker, text)


def _name(move: Move) -> str:
    return describe_kind(move.after)


def describe_kind(kind: Kind) -> str:
    """Return what a worker of a kind is called in a sentence."""
    return "a prefill worker" if kind is None else f"a decode worker of {kind!r}"
