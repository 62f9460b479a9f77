"""An abort ends the request whose id it names, and none whose id only begins so.

SGLang's scheduler compares the begins of ids, and callers of one engine may choose theirs (``rid``): who leaves a call
``task-1`` would end ``task-10`` to ``task-19`` of others. Workers of a pair get ids that their router has made.
:mod:`sglang_patches.engine.scheduler` asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler import Scheduler


@contextmanager
def longer_ids_hidden(scheduler: Scheduler, rid: str) -> Iterator[None]:
    """While the context is open, no request of a colocated engine has an id that begins with ``rid`` and goes on."""
    # By identity: a request may stand in two batches.
    longer = {id(req): req for req in _list_all(scheduler) if req.rid != rid and req.rid.startswith(rid)}
    mark = "+" if rid.startswith("-") else "-"  # another letter than the first of `rid`
    for req in longer.values():
        req.rid = mark + req.rid
    try:
        yield
    finally:
        for req in longer.values():
            req.rid = req.rid[len(mark) :]


def _list_all(scheduler: Scheduler) -> Iterator[Req]:
    """Every request that the scheduler looks at when it is told to abort one."""
    if scheduler.chunked_req is not None:
        yield scheduler.chunked_req
    yield from scheduler.waiting_queue
    yield from scheduler.grammar_manager.grammar_queue
    for batch in (scheduler.running_batch, scheduler.last_batch):
        if batch is not None:
            yield from batch.reqs
