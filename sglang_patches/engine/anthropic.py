"""Model names behind the Anthropic-compatible endpoints.

Target: ``sglang.srt.entrypoints.anthropic.serving.AnthropicServing``
Why: it turns the 404 of an unknown name into a 500.
How: the name is resolved first; an unknown one is Anthropic's own 404.
Remove when: these endpoints pass errors about the model name on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.anthropic import serving as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.http.model_names import resolve_adapter, served_names

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicMessagesRequest


@binds("entrypoints.anthropic.serving:AnthropicServing", at=("entrypoints.http_server",))
class AnthropicServing(upstream.AnthropicServing):
    """Knows which models there are before it converts a call."""

    @overrides("a9f6ed3837503357", "an unknown model name would be an internal error")
    async def handle_messages(self, request: AnthropicMessagesRequest, raw_request: Request) -> Any:
        try:
            resolve_adapter(request.model, *served_names(self.openai_serving_chat.tokenizer_manager))
        except LookupError as error:
            return self._error_response(status_code=404, error_type="not_found_error", message=str(error))
        return await super().handle_messages(request, raw_request)
