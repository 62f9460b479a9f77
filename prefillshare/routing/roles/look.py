"""One look at the load, out of what the router measures anyway."""

import time

from prefillshare.roles import Look, PoolLook, WorkerLook
from prefillshare.routing.choice.admission import Admission
from prefillshare.routing.workers.group import Group
from prefillshare.routing.workers.pool import WorkerPool
from prefillshare.routing.workers.worker import Worker


def take_look(pool: WorkerPool, admission: Admission, now: float | None = None) -> Look:
    """Return how every pool stands, also those that have no worker; not those of engines, which keep their role."""
    now = time.monotonic() if now is None else now
    alone = pool.computing_alone()
    modules = [module for module in pool.modules() if module not in alone]
    looks: dict[str | None, PoolLook] = {
        module: _look_at(pool.replica_group(module), _decode_wait_s(pool, admission, module, now), now)
        for module in modules
    }
    return {None: _look_at(pool.prefill_group, _prefill_wait_s(pool, admission, modules), now), **looks}


def _decode_wait_s(pool: WorkerPool, admission: Admission, module: str, now: float) -> float:
    """A queue is a module's own where all of its workers have their hands full; else it is for a prefill worker.

    Beside it, calls wait inside of the workers for room, with their prompts prefilled.
    """
    group = pool.replica_group(module)
    inside_s = min((worker.room_wait_s(now) for worker in group if worker.is_available), default=0.0)
    return inside_s + (0.0 if group.find_ready() else admission.oldest_wait_s(module))


def _prefill_wait_s(pool: WorkerPool, admission: Admission, modules: list[str]) -> float:
    """The shortest time in which any of them has done what it has, beside the wait for room at one of them."""
    shortest_s = min((worker.backlog_s() for worker in pool.prefill_group if worker.is_available), default=0.0)
    if pool.prefill_group.find_ready():
        return shortest_s
    waiting = [admission.oldest_wait_s(module) for module in modules if pool.replica_group(module).find_ready()]
    return shortest_s + max(waiting, default=0.0)


def _look_at(group: Group, wait_s: float, now: float) -> PoolLook:
    return PoolLook(wait_s=wait_s, workers=tuple(_look_at_worker(worker, now) for worker in group))


def _look_at_worker(worker: Worker, now: float) -> WorkerLook:
    return WorkerLook(
        id=worker.id,
        is_up=worker.state == "up",
        calls=worker.num_working(now),
        age_s=now - worker.joined_at,
        can_move=worker.spec.can_move,
    )
