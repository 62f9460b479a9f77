"""Model names and sessions behind the Anthropic-compatible endpoints.

Target: ``sglang.srt.entrypoints.anthropic.serving.AnthropicServing``
Why: it turns the 404 of an unknown name into a 500, and counts tokens for any name. The user that a call names is
    dropped, and with it the session's name.
How: the name is resolved first; an unknown one is Anthropic's own 404. The user is kept on the HTTP request, as that of
    OpenAI calls is.
Remove when: these endpoints pass errors about the model name on, and the user.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.anthropic import serving as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.http.model_names import module_names, select_module

if TYPE_CHECKING:
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from sglang.srt.entrypoints.anthropic.protocol import AnthropicCountTokensRequest, AnthropicMessagesRequest


@binds("entrypoints.anthropic.serving:AnthropicServing", at=("entrypoints.http_server",))
class AnthropicServing(upstream.AnthropicServing):
    """Knows which models there are before it converts a call."""

    @overrides("a9f6ed3837503357", "an unknown model name would be an internal error")
    async def handle_messages(self, request: AnthropicMessagesRequest, raw_request: Request) -> Any:
        if (refusal := self._refuse_name(request.model)) is not None:
            return refusal
        raw_request.state.prefillshare_user = (request.metadata or {}).get("user_id")
        return await super().handle_messages(request, raw_request)

    @overrides("07c7056076c998e7", "tokens would be counted for a model that does not exist")
    async def handle_count_tokens(self, request: AnthropicCountTokensRequest, raw_request: Request) -> JSONResponse:
        refusal = self._refuse_name(request.model)
        return refusal if refusal is not None else await super().handle_count_tokens(request, raw_request)

    def _refuse_name(self, model: str) -> JSONResponse | None:
        try:
            select_module(model, module_names(self.openai_serving_chat.tokenizer_manager))
        except LookupError as error:
            refusal: JSONResponse = self._error_response(
                status_code=404, error_type="not_found_error", message=str(error)
            )
            return refusal
        return None
