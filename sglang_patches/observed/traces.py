"""One trace per call that says which decode module answers.

FastAPI, once SGLang has set a tracer provider, adds a second trace of four spans to every HTTP request, scrapes
included: these are switched off for SGLang's app. ``patches/time_stats`` keeps health checks out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.observability.trace import SpanAttributes

from prefillshare.observe import gen_ai

if TYPE_CHECKING:
    from fastapi import FastAPI
    from sglang.srt.managers.tokenizer_manager import ReqState


MODULE_ATTRIBUTE = "prefillshare.module"
_RENAMED = {
    SpanAttributes.GEN_AI_USAGE_PROMPT_TOKENS: gen_ai.INPUT_TOKENS,
    SpanAttributes.GEN_AI_USAGE_COMPLETION_TOKENS: gen_ai.OUTPUT_TOKENS,
    SpanAttributes.GEN_AI_USAGE_CACHED_TOKENS: gen_ai.CACHED_TOKENS,
}


def switch_framework_off(app: FastAPI) -> None:
    """No spans of FastAPI's own. Its switch is an argument of the constructor, which SGLang calls."""
    telemetry = getattr(app, "_telemetry", None)
    if telemetry is not None:
        telemetry["tracing"] = False


def describe_begin(state: ReqState, module: str, path: str, session: str | None) -> None:
    """Say on the span of a request which decode module answers it, and what kind of call it is part of."""
    trace = state.time_stats.trace_ctx
    if trace.tracing_enable:
        trace.trace_set_root_attrs({MODULE_ATTRIBUTE: module, **gen_ai.describe_call(path, module, session)})


def describe_end(upstreams: dict[str, Any], module: str) -> dict[str, Any]:
    """What upstream says of a request that ended, under today's names too.

    It names the tokens as earlier drafts of the conventions did, and as the model that answered always the base.
    """
    named = {new: upstreams[old] for old, new in _RENAMED.items() if old in upstreams}
    return upstreams | named | {gen_ai.RESPONSE_MODEL: module}
