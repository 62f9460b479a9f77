"""The ``user`` of an OpenAI call, which names its session where nothing else does.

Target: ``sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase.handle_request``
Why: the field is parsed and then dropped; the counting of sessions (:mod:`sglang_patches.observed_requests`) sees the
    converted request only.
How: kept on the HTTP request, which goes along. Values that SGLang takes silently are refused at the same place
    (:mod:`sglang_patches.openai_values`).
Upstream: sglang/srt/entrypoints/openai/serving_base.py:73 at 0.5.17.
Remove when: upstream passes it on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches import openai_values


def wrap_handle_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_request(self: Any, request: Any, raw_request: Any) -> Any:
        if raw_request is not None:
            raw_request.state.prefillshare_user = getattr(request, "user", None)
        refusal = openai_values.problem(request, self.tokenizer_manager.model_config.vocab_size)
        if refusal:
            return self.create_error_response(refusal)
        return await original(self, request, raw_request)

    return handle_request
