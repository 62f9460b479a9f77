"""Decode modules behind ``/v1/responses``.

Target: ``sglang.srt.entrypoints.openai.serving_responses.OpenAIServingResponses``
Why: this endpoint never looks at adapters: it would answer every name, a decode module's too, with the prefill module.
    It takes two from the tokens that a caller allows, knows no format of the answer, calls one that was cut off
    completed, and a stream of it that fails does not say why.
How: when a call arrives its name is resolved (404 if unknown) and the module left in a context variable; the engine
    request, which is made inside of that call, takes it from there. So does the conversation, which is rendered before
    (:mod:`sglang_patches.eager`). What it makes of the sampling parameters is set right there, too, and how the
    answer ends is seen: the response tells it by ``incomplete_details``, of which :mod:`prefillshare.responses` makes
    the status. The reason of a failure stays with the request, for :mod:`sglang_patches.http.bodies`.
Remove when: the endpoint resolves adapters as chat completions do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from sglang.srt.entrypoints.openai import serving_responses as upstream

from sglang_patches.checks import openai_values
from sglang_patches.declarations import binds, overrides
from sglang_patches.eager.answers import note_conversation
from sglang_patches.eager.continuation import Conversation
from sglang_patches.http.model_names import UPSTREAM_DEFAULT_MODEL, ModelMissingError, resolve_adapter, served_names
from sglang_patches.http.request_state import SCHEMA, note_failure

if TYPE_CHECKING:
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

_wanted: ContextVar[Mapping[str, Any]] = ContextVar("prefillshare_wanted", default=MappingProxyType({}))
"""Sampling parameters of that call that SGLang leaves out, or makes others of."""
_CUT_OFF = {"reason": "max_output_tokens"}
_COMPLETED = "event: response.completed\n"


class _End:
    """How an answer ends."""

    def __init__(self) -> None:
        self.is_cut_off = False

    async def watch(self, answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The answers, which are SGLang's contexts of a conversation, as they are."""
        async for answer in answers:
            output = getattr(answer, "last_output", None)
            reason = output["meta_info"].get("finish_reason") if isinstance(output, dict) else None
            self.is_cut_off = reason is not None and reason["type"] == "length"
            yield answer

    async def tell(self, events: AsyncIterator[str]) -> AsyncIterator[str]:
        """The events of a stream; the last one says that the answer was cut off, if it was."""
        async for event in events:
            if self.is_cut_off and event.startswith(_COMPLETED):
                value = json.loads(event.partition("\ndata: ")[2])
                value["response"]["incomplete_details"] = _CUT_OFF
                event = f"{_COMPLETED}data: {json.dumps(value)}\n\n"
            yield event


_end: ContextVar[_End] = ContextVar("prefillshare_end")
"""That of the call."""


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
            _selected.set(resolve_adapter(request.model or UPSTREAM_DEFAULT_MODEL, *names))
        except LookupError as error:
            status = 400 if isinstance(error, ModelMissingError) else 404
            return self.create_error_response(str(error), err_type="NotFoundError", status_code=status)
        schema = None if raw_request is None else getattr(raw_request.state, SCHEMA, None)
        _wanted.set({"max_new_tokens": request.max_output_tokens, "json_schema": schema})
        end = _End()
        _end.set(end)
        told = await super().create_responses(request, raw_request)
        if isinstance(told, upstream.ResponsesResponse):
            told.incomplete_details = _CUT_OFF if end.is_cut_off else None
        return end.tell(told) if isinstance(told, AsyncGenerator) else told

    @overrides("0942893b3a0ecdae", "refusals would end with the word None")
    def create_error_response(self, message: str, *args: Any, **kwargs: Any) -> Any:
        # SGLang writes an error and its cause behind each other, and most have none.
        return super().create_error_response(message.removesuffix(" None"), *args, **kwargs)

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
        _restore(adapted_request.sampling_params, _wanted.get())
        conversation = _conversation.get()
        if conversation is not None and self.tokenizer_manager.ended_answers is not None:
            note_conversation(adapted_request, conversation)
        made = super()._generate_with_builtin_tools(request_id, request_prompt, adapted_request, *args, **kwargs)
        made = _end.get().watch(made)
        raw_request: Request | None = kwargs.get("raw_request")
        return made if raw_request is None else note_failure(made, raw_request)


def _restore(params: dict[str, Any], wanted: Mapping[str, Any]) -> None:
    """Effects: changes ``params``. Raises: ValueError when a format and a tool both want a grammar."""
    limit, schema = wanted.get("max_new_tokens"), wanted.get("json_schema")
    # Two less than was allowed; if less than that, because the context has no room for more.
    if limit is not None and params["max_new_tokens"] == limit - 2:
        params["max_new_tokens"] = limit
    if schema is None:
        return
    if params.get("structural_tag") or params.get("json_schema"):
        raise ValueError("text.format and a tool that must be called exclude each other: leave one out")
    params["json_schema"] = schema
