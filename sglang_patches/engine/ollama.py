"""Model names behind the Ollama-compatible endpoints.

Target: ``sglang.srt.entrypoints.ollama.serving.OllamaServing``
Why: it drops the name and answers everything with the base, a decode module's name too.
How: the name is resolved first: an unknown one is 404, a decode module 501 with the endpoint that serves it.
Remove when: these endpoints pass the model name on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import HTTPException
from sglang.srt.entrypoints.ollama import serving as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.http.model_names import resolve_or_404

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.entrypoints.ollama.protocol import OllamaChatRequest, OllamaGenerateRequest


@binds("entrypoints.ollama.serving:OllamaServing", at=("entrypoints.http_server",))
class OllamaServing(upstream.OllamaServing):
    """Answers with the prefill module, and only where it is named."""

    @overrides("175d7e3bae5bc96e", "the Ollama endpoints would answer every name with the base")
    async def handle_chat(self, request: OllamaChatRequest, raw_request: Request) -> Any:
        self._check_model(request.model)
        return await super().handle_chat(request, raw_request)

    @overrides("a9921502fac88934", "the Ollama endpoints would answer every name with the base")
    async def handle_generate(self, request: OllamaGenerateRequest, raw_request: Request) -> Any:
        self._check_model(request.model)
        return await super().handle_generate(request, raw_request)

    def _check_model(self, model: str) -> None:
        if resolve_or_404(self.tokenizer_manager, model) is not None:
            raise HTTPException(
                status_code=501,
                detail=(
                    f"the Ollama endpoints serve the prefill module only: ask for {model!r} at /v1/chat/completions"
                ),
            )
