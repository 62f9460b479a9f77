"""One trace per call that says which decode module answers, and none for looks.

Target: ``sglang.srt.observability.req_time_stats.ReqTimeStatsBase.init_trace_ctx``
Why: a health check is a request of its own inside the engine, so every look of a supervisor or a load balancer would
    make a trace; and FastAPI, once SGLang has set a tracer provider, adds a second trace of four spans to every HTTP
    request, scrapes included.
How: a health check gets the context that SGLang itself uses where nothing is traced. FastAPI's own spans are switched
    off for SGLang's app. :mod:`sglang_patches.observed.requests` names the module on the request's span.
Upstream: sglang/srt/observability/req_time_stats.py:283 at 0.5.17.
Remove when: upstream leaves health checks out of its traces, and has its spans below FastAPI's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MODULE_ATTRIBUTE = "prefillshare.module"


def wrap_init_trace_ctx(original: Callable[..., None]) -> Callable[..., None]:
    def init_trace_ctx(self: Any, rid: str, *args: Any, **kwargs: Any) -> None:
        from sglang.srt.constants import HEALTH_CHECK_RID_PREFIX
        from sglang.srt.observability.trace import TraceNullContext

        if str(rid).startswith(HEALTH_CHECK_RID_PREFIX):
            self.trace_ctx = TraceNullContext()
        else:
            original(self, rid, *args, **kwargs)

    return init_trace_ctx


def switch_framework_off(app: Any) -> None:
    """No spans of FastAPI's own. Its switch is an argument of the constructor, which SGLang calls."""
    telemetry = getattr(app, "_telemetry", None)
    if telemetry is not None:
        telemetry["tracing"] = False


def name_module(state: Any, module: str) -> None:
    """Say on the span of a request which decode module answers it."""
    state.time_stats.trace_ctx.trace_set_root_attrs({MODULE_ATTRIBUTE: module})
