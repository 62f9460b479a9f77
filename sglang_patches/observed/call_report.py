"""What a call's reply says of shared prefill, under ``prefillshare``.

The scheduler notes it on the request: ``own_hit_tokens`` and ``cross_hit_tokens`` (which add up to ``cached_tokens``),
across workers ``handoff_tokens``, ``handoff_bytes`` and ``handoff_seconds``. ``/generate`` shows it as a list of one
dictionary in ``meta_info``; the OpenAI endpoints as that dictionary in the ``metadata`` of an unstreamed reply.

Target: ``sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat._build_chat_response`` and
    ``sglang.srt.entrypoints.openai.serving_completions.OpenAIServingCompletion._build_completion_response``
Why: OpenAI replies carry no ``meta_info``.
How: the dictionary of the first choice is added to the reply's ``metadata``, beside ``weight_version``.
Upstream: sglang/srt/entrypoints/openai/serving_chat.py:1727, serving_completions.py:497 at 0.5.17.
Remove when: upstream reports cache hits by origin and transfers per request.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

META_KEY = "prefillshare"


def note(req: Any, **values: float) -> None:
    """Add ``values`` to what the reply to ``req`` says."""
    info = req.customized_info or {}
    # SGLang's own seam: one value per output token, so the dictionary comes with the first one.
    (known,) = info.get(META_KEY, [{}])
    req.customized_info = {**info, META_KEY: [{**known, **values}]}


def noted(customized_info: dict[str, list[Any]] | None) -> dict[str, float]:
    """What was noted, of a request or of the ``meta_info`` of its reply; empty when nothing was."""
    return next(iter((customized_info or {}).get(META_KEY) or ()), None) or {}


def wrap_build_response(original: Callable[..., Any]) -> Callable[..., Any]:
    def build_response(self: Any, request: Any, ret: list[dict[str, Any]], *args: Any, **kwargs: Any) -> Any:
        reply = original(self, request, ret, *args, **kwargs)
        values = noted(ret[0]["meta_info"])
        if values and getattr(reply, "metadata", None) is not None:
            reply.metadata = {**reply.metadata, META_KEY: values}
        return reply

    return build_response
