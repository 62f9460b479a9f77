"""What nobody asked for makes no traces: health checks, and what is computed or handed over ahead.

Target: ``sglang.srt.observability.req_time_stats.ReqTimeStatsBase.init_trace_ctx``
Why: a health check is a request of its own inside the engine, so every look of a supervisor or a load balancer would
    make a trace; so would each job (:mod:`sglang_patches.eager`) and each push
    (:mod:`sglang_patches.disaggregation.pushes`).
How: such a request gets the context that SGLang itself uses where nothing is traced. A method patch: the four kinds
    of statistics are subclasses of this one. ``observed/requests`` names the module on the span of any other request.
Remove when: upstream leaves health checks out of its traces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.checks.reserved_ids import is_call_rid
from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.observability.req_time_stats import ReqTimeStatsBase


@wraps_upstream(
    "observability.req_time_stats:ReqTimeStatsBase.init_trace_ctx",
    "c37bb37caa139f23",
    "every health check would make a trace",
)
def wrap_init_trace_ctx(original: Callable[..., None]) -> Callable[..., None]:
    def init_trace_ctx(self: ReqTimeStatsBase, rid: str, *args: Any, **kwargs: Any) -> None:
        from sglang.srt.observability.trace import TraceNullContext

        if is_call_rid(rid):
            original(self, rid, *args, **kwargs)
        else:
            self.trace_ctx = TraceNullContext()

    return init_trace_ctx


RELIED_ON = {
    "observability.req_time_stats:APIServerReqTimeStats.set_created_time": ("666479439b604a47", "begins the span"),
}
