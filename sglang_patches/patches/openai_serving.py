"""An OpenAI call before SGLang makes a request of it: its ``user``, and what a prefill worker need not answer.

Target: ``sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase.handle_request``
Why: ``user`` names a call's session where nothing else does, but is parsed and then dropped; the counting of sessions
    (:mod:`sglang_patches.observed.requests`) sees the converted request only. A prefill worker samples nothing, and
    fails with 500 where it makes up a reply with log-probabilities.
How: the first is kept on the HTTP request, which goes along; what is wanted of the answer is neutral on a prefill
    worker. Values that SGLang takes silently are refused at the same place (``checks/openai_values``).
Upstream: sglang/srt/entrypoints/openai/serving_base.py:73 at 0.5.17.
Remove when: upstream passes it on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.checks import openai_values
from sglang_patches.disaggregation.role import is_prefill_worker

ANSWER_FIELDS = (
    "logprobs",
    "top_logprobs",
    "echo",
    "return_hidden_states",
    "return_routed_experts",
    "return_token_ids",
    "return_prompt_token_ids",
    "return_meta_info",
)
"""Fields of an OpenAI call that concern its answer alone."""


def wrap_handle_request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_request(self: Any, request: Any, raw_request: Any) -> Any:
        if raw_request is not None:
            raw_request.state.prefillshare_user = getattr(request, "user", None)
        refusal = openai_values.problem(request, self.tokenizer_manager.model_config.vocab_size)
        if refusal:
            return self.create_error_response(refusal)
        if is_prefill_worker():
            _neutralize(request)
        return await original(self, request, raw_request)

    return handle_request


def _neutralize(request: Any) -> None:
    for name in ANSWER_FIELDS:
        if name in type(request).model_fields:
            setattr(request, name, type(request).model_fields[name].default)
