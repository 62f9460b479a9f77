"""What a completion's reply says of shared prefill.

Target: ``sglang.srt.entrypoints.openai.serving_completions.OpenAIServingCompletion``
Why: OpenAI replies carry no ``meta_info``.
How: what was noted on the first choice (:mod:`sglang_patches.observed.call_report`) is added to the reply's
    ``metadata``.
Remove when: upstream reports cache hits by origin and transfers per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.openai import serving_completions as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.observed.call_report import add_report

if TYPE_CHECKING:
    from sglang.srt.entrypoints.openai.protocol import CompletionRequest


@binds("entrypoints.openai.serving_completions:OpenAIServingCompletion", at=("entrypoints.http_server",))
class OpenAIServingCompletion(upstream.OpenAIServingCompletion):
    """Tells whose prefill was reused."""

    @overrides("8799aaa05dac68d5", "nobody would see whose prefill was reused, and the size of a hand-off")
    def _build_completion_response(self, request: CompletionRequest, ret: list[dict[str, Any]], created: int) -> Any:
        reply = super()._build_completion_response(request, ret, created)
        add_report(reply, ret[0]["meta_info"])
        return reply
