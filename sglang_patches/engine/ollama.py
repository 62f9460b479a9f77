"""Model names behind the Ollama- and Anthropic-compatible endpoints.

Target: ``handle_chat`` and ``handle_generate`` of
    ``sglang.srt.entrypoints.ollama.serving.OllamaServing``, and ``handle_messages`` of
    ``sglang.srt.entrypoints.anthropic.serving.AnthropicServing``
Why: the first two drop the name and answer everything with the base, a decode
    module's name too; the third turns the 404 of an unknown name into a 500.
How: the name is resolved before the original runs. Ollama: unknown is 404, a decode
    module 501 with the endpoint that serves it. Anthropic: unknown is its own 404.
Upstream: sglang/srt/entrypoints/ollama/serving.py:69 and
    sglang/srt/entrypoints/anthropic/serving.py:206 at 0.5.17.
Remove when: these endpoints pass the model name, and errors about it, on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.http.model_names import resolve_adapter, resolve_or_404, served_names


def wrap_ollama(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle(self: Any, request: Any, raw_request: Any) -> Any:
        from fastapi import HTTPException

        if resolve_or_404(self.tokenizer_manager, request.model) is not None:
            raise HTTPException(
                status_code=501,
                detail=(
                    "the Ollama endpoints serve the prefill module only: ask for "
                    f"{request.model!r} at /v1/chat/completions"
                ),
            )
        return await original(self, request, raw_request)

    return handle


def wrap_anthropic(original: Callable[..., Any]) -> Callable[..., Any]:
    async def handle_messages(self: Any, request: Any, raw_request: Any) -> Any:
        tokenizer_manager = self.openai_serving_chat.tokenizer_manager
        try:
            resolve_adapter(request.model, *served_names(tokenizer_manager))
        except LookupError as error:
            return self._error_response(status_code=404, error_type="not_found_error", message=str(error))
        return await original(self, request, raw_request)

    return handle_messages
