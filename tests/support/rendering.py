"""Chats as SGLang renders them, and what is computed ahead after their answers."""

import copy
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from sglang_patches.eager.continuation import Answer, Conversation
from sglang_patches.eager.tails import Tails


@dataclass(frozen=True, slots=True)
class Served:
    """SGLang's own serving of chats, without an engine behind it."""

    serving: Any
    tokenizer: Any

    def prompt(self, body: dict[str, Any]) -> list[int]:
        """The prompt of a call."""
        return list(self.serving._process_messages(request_of(body), False).prompt_ids)

    def continuation(self, body: dict[str, Any], text: str, tails: Tails | None = None) -> list[int]:
        """What is computed ahead after an answer."""
        return Conversation(self.serving, request_of(body)).find_continuation(self.answer(text), tails or Tails())

    def message(self, body: dict[str, Any], text: str) -> dict[str, Any]:
        """What the caller gets, and sends back."""
        item = {"text": text, "output_ids": [1], "meta_info": dict(self.answer(text).meta_info)}
        choice = self.serving._build_chat_response(request_of(body), [item], 0).choices[0]
        return dict(choice.message.model_dump(exclude_none=True))

    def answer(self, text: str) -> Answer:
        """How a call ended that was answered so."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        meta = {"id": "x", "finish_reason": {"type": "stop", "matched": 2}, "weight_version": ""}
        return Answer(
            text=text, token_ids=[*ids, 2], meta_info={**meta, "prompt_tokens": 5, "completion_tokens": len(ids) + 1}
        )


def request_of(body: dict[str, Any]) -> Any:
    """A chat call."""
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest

    return ChatCompletionRequest(model="m", **body)


def serve(tokenizer: Any, template: str | None, **parsers: str) -> Served:
    """The tiny family's tokenizer with another template, and SGLang's parsers of answers."""
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
    from sglang.srt.parser.template_manager import TemplateManager

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template or tokenizer.chat_template
    names = ("tool_call_parser", "reasoning_parser", "default_chat_template_kwargs")
    manager = SimpleNamespace(
        tokenizer=tokenizer,
        server_args=SimpleNamespace(**{name: parsers.get(name) for name in names}, enable_cache_report=True),
        model_config=SimpleNamespace(
            get_default_sampling_params=dict, hf_config=SimpleNamespace(model_type="qwen3", architectures=["Qwen3"])
        ),
    )
    templates = TemplateManager()
    templates._jinja_template_content_format = "string"
    return Served(OpenAIServingChat(manager, templates), tokenizer)
