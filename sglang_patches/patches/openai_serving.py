"""An OpenAI call before SGLang makes a request of it: whom it asks, in which namespace, for which session.

Target: ``sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase``
Why: SGLang answers every unknown name with the base model, so a typing error would silently bypass the decode module.
    It joins ``cache_salt`` and ``extra_key`` without a separator, so two salts can meet in one namespace (I7). ``user``
    names a call's session where nothing else does, but is parsed and then dropped; the counting of sessions sees the
    converted request only. A prefill worker samples nothing, nor does a choice (``choosing``), and SGLang fails with
    500 where it makes up a reply with log-probabilities.
How: names are resolved by :mod:`sglang_patches.http.model_names`, salts encoded so that different salts give different
    keys. ``user`` is kept on the HTTP request, which goes along; what is wanted of the answer is neutral there.
    Values that SGLang takes silently are refused (``checks/openai_values``). Method patches: nine classes of upstream's
    stand on this one, and each would have to be bound.
Remove when: upstream resolves plain adapter names and rejects unknown models, and passes ``user`` on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from prefillshare.wire.namespace import cache_namespace
from sglang_patches.checks import openai_values
from sglang_patches.choosing.requests import CHOICE
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.role import is_prefill_worker
from sglang_patches.http.model_names import UPSTREAM_DEFAULT_MODEL, resolve_or_404

if TYPE_CHECKING:
    from fastapi import Request
    from pydantic import BaseModel
    from sglang.srt.entrypoints.openai.serving_base import OpenAIServingBase

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

LoraPath = str | list[str | None] | None
Resolve = Callable[["OpenAIServingBase", str, LoraPath], LoraPath]
MakeKey = Callable[["OpenAIServingBase", "BaseModel"], str | None]
Handle = Callable[["OpenAIServingBase", "BaseModel", "Request"], Awaitable[Any]]


@wraps_upstream(
    "entrypoints.openai.serving_base:OpenAIServingBase._resolve_lora_path",
    "49412d2bbba36611",
    "unknown model names would get the base's answer",
)
def wrap_resolve_lora_path(original: Resolve) -> Resolve:
    def _resolve_lora_path(self: OpenAIServingBase, request_model: str, explicit_lora_path: LoraPath) -> LoraPath:
        selected = resolve_or_404(self.tokenizer_manager, request_model)
        return explicit_lora_path if selected is None else selected

    return _resolve_lora_path


@wraps_upstream(
    "entrypoints.openai.serving_base:OpenAIServingBase._compute_extra_key",
    "23a0884cfa935ad8",
    "two cache salts could share a namespace",
)
def wrap_compute_extra_key(original: MakeKey) -> MakeKey:
    def _compute_extra_key(self: OpenAIServingBase, request: BaseModel) -> str | None:
        values = {name: getattr(request, name, None) for name in ("cache_salt", "extra_key")}
        for name, value in values.items():
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string, got {value!r}")
        return cache_namespace(**values)

    return _compute_extra_key


@wraps_upstream(
    "entrypoints.openai.serving_base:OpenAIServingBase.handle_request",
    "8cf812ef94ceea99",
    "sessions named by user would be guessed; prefill workers would fail at log-probabilities",
)
def wrap_handle_request(original: Handle) -> Handle:
    from sglang.srt.entrypoints.openai.protocol import DetokenizeRequest, TokenizeRequest

    async def handle_request(self: OpenAIServingBase, request: BaseModel, raw_request: Request) -> Any:
        if raw_request is not None:
            raw_request.state.prefillshare_user = getattr(request, "user", None)
        refusal = openai_values.find_problem(request, self.tokenizer_manager.model_config.vocab_size)
        if refusal:
            return self.create_error_response(refusal)
        if isinstance(request, TokenizeRequest | DetokenizeRequest) and request.model != UPSTREAM_DEFAULT_MODEL:
            resolve_or_404(self.tokenizer_manager, request.model)  # it makes no difference, but a slip should show
        if is_prefill_worker() or (raw_request is not None and hasattr(raw_request.state, CHOICE)):
            _neutralize(request)
        return await original(self, request, raw_request)

    return handle_request


def _neutralize(request: BaseModel) -> None:
    for name in ANSWER_FIELDS:
        if name in type(request).model_fields:
            setattr(request, name, type(request).model_fields[name].default)
