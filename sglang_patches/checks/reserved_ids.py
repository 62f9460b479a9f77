"""Request ids that say what a request is: those that begin so are the engine's own, and no caller may give one.

A health check that comes while the engine computes is answered by whatever is computed, not by the scheduler; a job and
a push (:mod:`sglang_patches.eager`, :mod:`sglang_patches.disaggregation.pushes`) are no part of the load. A call with
such an id would wait for ever, or pass by those who wait for memory.
"""

from __future__ import annotations

from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX

from prefillshare.contract import EAGER_RID_PREFIX, PUSH_RID_PREFIX
from sglang_patches.disaggregation.role import worker_role

_OF_ROUTERS = (PUSH_RID_PREFIX,)
_OF_ENGINES = (EAGER_RID_PREFIX, HEALTH_CHECK_RID_PREFIX)


def is_call_rid(rid: object) -> bool:
    """Whether somebody waits for it: it is no job, no push and no health check."""
    return not (isinstance(rid, str) and rid.startswith((*_OF_ENGINES, *_OF_ROUTERS)))


def is_health_check(rid: object) -> bool:
    """Whether it only tries whether the engine generates."""
    return isinstance(rid, str) and rid.startswith(HEALTH_CHECK_RID_PREFIX)


def refuse_reserved_rid(rid: object) -> None:
    """Raises: ValueError when a call, or one of several, has an id of the engine's; routers name pushes to workers."""
    reserved = _OF_ENGINES if worker_role() != "null" else (*_OF_ENGINES, *_OF_ROUTERS)
    for given in rid if isinstance(rid, list) else [rid]:
        prefix = next((prefix for prefix in reserved if isinstance(given, str) and given.startswith(prefix)), None)
        if prefix is not None:
            raise ValueError(f"rid is {given!r}: ids that begin with {prefix!r} are the engine's own, take another")
