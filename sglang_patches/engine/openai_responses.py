"""Decode modules behind ``/v1/responses``.

Target: ``sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses``,
    methods ``create_responses`` and ``_generate_with_builtin_tools``
Why: this endpoint never looks at adapters: it would answer every name, a decode
    module's too, with the prefill module.
How: the first resolves the name (404 if unknown) and leaves the module in a context
    variable for the second, which runs inside it and puts it on the engine request.
Upstream: sglang/srt/entrypoints/openai/serving_responses.py:184,2363 at 0.5.17.
Remove when: the endpoint resolves adapters as chat completions do.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from sglang_patches.checks import openai_values
from sglang_patches.http.model_names import ModelMissingError, resolve_adapter, served_names

_selected: ContextVar[str | None] = ContextVar("prefillshare_module", default=None)


def wrap_create_responses(original: Callable[..., Any]) -> Callable[..., Any]:
    async def create_responses(self: Any, request: Any, raw_request: Any = None) -> Any:
        refusal = openai_values.problem(request, self.tokenizer_manager.model_config.vocab_size)
        if refusal:
            return self.create_error_response(refusal)
        names = served_names(self.tokenizer_manager)
        try:
            _selected.set(resolve_adapter(request.model, *names))
        except LookupError as error:
            status = 400 if isinstance(error, ModelMissingError) else 404
            return self.create_error_response(str(error), err_type="NotFoundError", status_code=status)
        return await original(self, request, raw_request)

    return create_responses


def wrap_generate_with_tools(original: Callable[..., Any]) -> Callable[..., Any]:
    def _generate_with_builtin_tools(
        self: Any,
        request_id: str,
        request_prompt: Any,
        adapted_request: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        adapted_request.lora_path = _selected.get()
        return original(self, request_id, request_prompt, adapted_request, *args, **kwargs)

    return _generate_with_builtin_tools
