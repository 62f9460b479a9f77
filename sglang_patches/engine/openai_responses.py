"""Decode modules behind ``/v1/responses``.

Target: ``sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses``
Why: this endpoint never looks at adapters: it would answer every name, a decode module's too, with the prefill module.
How: when a call arrives its name is resolved (404 if unknown) and the module left in a context variable; the engine
    request, which is made inside of that call, takes it from there. So does the conversation, which is rendered before
    (:mod:`sglang_patches.eager`).
Remove when: the endpoint resolves adapters as chat completions do.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.openai import serving_responses as upstream

from sglang_patches.checks import openai_values
from sglang_patches.declarations import binds, overrides
from sglang_patches.eager.answers import note_conversation
from sglang_patches.eager.continuation import Conversation
from sglang_patches.http.model_names import ModelMissingError, resolve_adapter, served_names

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fastapi import Request
    from sglang.srt.entrypoints.openai.protocol import (
        ChatCompletionRequest,
        MessageProcessingResult,
        ResponsesRequest,
    )
    from sglang.srt.managers.io_struct import GenerateReqInput

_conversation: ContextVar[Conversation | None] = ContextVar("prefillshare_conversation", default=None)
"""The conversation of that call, once it was rendered."""

_selected: ContextVar[str | None] = ContextVar("prefillshare_module", default=None)
"""Decode module of the call that is being answered: calls are tasks, and each task has a context of its own."""


@binds("entrypoints.openai.serving_responses:OpenAIServingResponses")
class OpenAIServingResponses(upstream.OpenAIServingResponses):
    """Answers with the module that a call names."""

    @overrides("80dee315da0a87a4", "/v1/responses would answer every name with the base")
    async def create_responses(self, request: ResponsesRequest, raw_request: Request | None = None) -> Any:
        refusal = openai_values.find_problem(request, self.tokenizer_manager.model_config.vocab_size)
        if refusal:
            return self.create_error_response(refusal)
        # Whoever is before this engine remembers (http/responses, or the router): here it would be for ever.
        request.store = request.background = False
        names = served_names(self.tokenizer_manager)
        try:
            _selected.set(resolve_adapter(request.model, *names))
        except LookupError as error:
            status = 400 if isinstance(error, ModelMissingError) else 404
            return self.create_error_response(str(error), err_type="NotFoundError", status_code=status)
        return await super().create_responses(request, raw_request)

    @overrides(
        "d9705a3cc1b228d6",
        "nobody would know what an answer becomes in the next prompt",
        of="entrypoints.openai.serving_chat:OpenAIServingChat._process_messages",
    )
    def _process_messages(self, request: ChatCompletionRequest, is_multimodal: bool) -> MessageProcessingResult:
        # Rendering what may come next goes through here, too, in a thread with a context of its own.
        _conversation.set(Conversation(self, request))
        return super()._process_messages(request, is_multimodal)

    @overrides("90a47c77e3097b51", "/v1/responses would ignore the decode module")
    def _generate_with_builtin_tools(
        self, request_id: str, request_prompt: Any, adapted_request: GenerateReqInput, *args: Any, **kwargs: Any
    ) -> AsyncIterator[Any]:
        adapted_request.lora_path = _selected.get()
        conversation = _conversation.get()
        if conversation is not None and self.tokenizer_manager.ended_answers is not None:
            note_conversation(adapted_request, conversation)
        return super()._generate_with_builtin_tools(request_id, request_prompt, adapted_request, *args, **kwargs)
