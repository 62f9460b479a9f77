"""What a chat completion's reply says of shared prefill, and that its request remembers the conversation.

Target: ``sglang.srt.entrypoints.openai.serving_chat.OpenAIServingChat``
Why: OpenAI replies carry no ``meta_info``. And a request knows its tokens only, not the messages that they were made
    of: what an answer becomes in the next prompt is for the template to say. In a stream, tokens that come in one piece
    all get the ``top_logprobs`` of the first.
How: what was noted on the first choice (:mod:`sglang_patches.observed.call_report`) is added to the reply's
    ``metadata``. The conversation is left on the request that is made of it (:mod:`sglang_patches.eager`). Each token
    of a piece gets its own ``top_logprobs``.
Remove when: upstream reports cache hits by origin and transfers per request, and its streams tell log-probabilities
    by token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.openai import serving_chat as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.eager.answers import note_conversation
from sglang_patches.eager.continuation import Conversation
from sglang_patches.observed.call_report import add_report

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest, LogProbs
    from sglang.srt.managers.io_struct import GenerateReqInput


@binds(
    "entrypoints.openai.serving_chat:OpenAIServingChat",
    at=("entrypoints.openai.serving_responses", "entrypoints.openai.serving_tokenize"),
)
class OpenAIServingChat(upstream.OpenAIServingChat):
    """Tells whose prefill was reused."""

    @overrides("bb2bc35779640cf3", "nobody would know what an answer becomes in the next prompt")
    def _convert_to_internal_request(
        self, request: ChatCompletionRequest, raw_request: Request | None = None
    ) -> tuple[GenerateReqInput, ChatCompletionRequest]:
        adapted, request = super()._convert_to_internal_request(request, raw_request)
        # Tokens that the caller sends in place of messages are the conversation.
        if self.tokenizer_manager.ended_answers is not None and request.input_ids is None:
            note_conversation(adapted, Conversation(self, request))
        return adapted, request

    @overrides("9cec50f17ab5e985", "nobody would see whose prefill was reused, and the size of a hand-off")
    def _build_chat_response(self, request: ChatCompletionRequest, ret: list[dict[str, Any]], created: int) -> Any:
        reply = super()._build_chat_response(request, ret, created)
        add_report(reply, ret[0]["meta_info"])
        return reply

    @overrides(
        "8ad448bdbe5d1ca9", "tokens that come in one piece of a stream would all have the first one's top_logprobs"
    )
    def _process_logprobs_tokens(self, logprobs: LogProbs, use_token_index: bool = False) -> Any:
        # Of a stream, both lists are cut to the piece's tokens before: their places are the same.
        return super()._process_logprobs_tokens(logprobs, use_token_index=True)
