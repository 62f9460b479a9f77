"""One trace per call that says which decode module answers.

FastAPI, once SGLang has set a tracer provider, adds a second trace of four spans to every HTTP request, scrapes
included: these are switched off for SGLang's app. ``patches/time_stats`` keeps health checks out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sglang.srt.managers.tokenizer_manager import ReqState


MODULE_ATTRIBUTE = "prefillshare.module"


def switch_framework_off(app: FastAPI) -> None:
    """No spans of FastAPI's own. Its switch is an argument of the constructor, which SGLang calls."""
    telemetry = getattr(app, "_telemetry", None)
    if telemetry is not None:
        telemetry["tracing"] = False


def name_module(state: ReqState, module: str) -> None:
    """Say on the span of a request which decode module answers it."""
    state.time_stats.trace_ctx.trace_set_root_attrs({MODULE_ATTRIBUTE: module})
