"""A chat as the server renders it, by the server's own code.

Between a call's JSON and the chat template, SGLang reads messages and tools into its own classes (keys in their order,
`strict` added, nulls of messages dropped), corrects types in schemas, decodes the arguments of tool calls, flattens
lists of text parts, and turns an assistant's turn at the end into a user's, or continues it. Here that very code runs
on the tokenizer of the base, without an engine: a prompt is trained exactly as it will be served, and a row that the
server would refuse is refused with its words.

Not covered: what a single call or deployment may add, such as `chat_template_kwargs` or another chat template.
"""

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from prefillshare.training.data.chat import Chat, RowError

if TYPE_CHECKING:
    from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat

_NAME = re.compile("[a-z_]+")
_NEXT_TURN = {"role": "user", "content": ""}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What the server would make of the turns before an answer."""

    tokens: list[int]
    """Token ids, as `return_prompt_token_ids` shows them."""
    text: str
    """What the template wrote."""
    prefix: str
    """What the server put behind it, since the answer continues a turn."""
    messages: list[dict[str, Any]]
    """The turns as the template saw them."""
    arguments: dict[str, Any]
    """What else the template was given."""


def served_tokenizer(base: Path) -> Any:
    """The tokenizer of a base with the corrections that the server makes to it."""
    with _silence_imports():
        from sglang.srt.utils.hf_transformers_utils import get_tokenizer

    return get_tokenizer(str(base))


class ServedChat:
    """A chat, rendered turn by turn as a client of `/v1/chat/completions` would send it.

    Raises: RowError when the server would refuse the call.
    """

    def __init__(self, chat: Chat, tokenizer: Any) -> None:
        self._chat = chat
        self._serving, self._recorder = _make_serving(tokenizer, _template_key(tokenizer))
        self._request = self._check_request(chat)

    def prompt(self, number: int) -> Prompt:
        """The prompt whose answer is turn `number`."""
        before = self._request.messages[:number]
        has_prefix = bool(self._chat.messages[number - 1].get("prefix"))
        tokens = self._process(before, continue_final_message=has_prefix)
        prefix = before[-1].content or "" if has_prefix else ""
        messages, arguments = self._recorder.seen
        return Prompt(tokens=tokens, text=self._recorder.text, prefix=prefix, messages=messages, arguments=arguments)

    def with_answer(self, number: int, prompt: Prompt) -> str:
        """What the template makes of the same turns and turn `number` as their last."""
        with self._recorder.only_recording():
            # A turn of the user behind it, or the server would take the answer for something to continue.
            self._process([self._request.messages[number], _user_turn(self._request)])
        (answer, _), _ = self._recorder.seen
        if prompt.prefix:
            answer["content"] = prompt.prefix + answer["content"]
        arguments = {**prompt.arguments, "add_generation_prompt": False}
        return self._recorder.apply_chat_template([*prompt.messages, answer], **arguments)

    def _process(self, messages: list[Any], **fields: Any) -> list[int]:
        request = self._request.model_copy(update={"messages": messages, **fields})
        return self._serving._process_messages(request, is_multimodal=False).prompt_ids

    def _check_request(self, chat: Chat) -> Any:
        from pydantic import ValidationError
        from sglang.srt.entrypoints.openai.protocol import ChatCompletionRequest

        # The server corrects schemas in place, and the row is not its own.
        tools = copy.deepcopy(list(chat.tools)) or None
        try:
            request = ChatCompletionRequest.model_validate({"messages": [*chat.messages, _NEXT_TURN], "tools": tools})
        except ValidationError as error:
            raise RowError("malformed", f"the server refuses it ({_first_fault(error.errors())})") from None
        if refusal := self._serving._validate_request(request):
            raise RowError("malformed", f"the server refuses it ({_first_line(refusal)})")
        return request


def _first_fault(errors: Sequence[Any]) -> str:
    """Place and text of what is wrong; a turn that fits no kind of turn is wrong in each kind."""
    fault = next((error for error in errors if error["loc"][-1] != "role"), errors[0])
    place = ".".join(str(part) for part in fault["loc"] if isinstance(part, int) or _NAME.fullmatch(part))
    return f"{place}: {_first_line(fault['msg'])}"


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:200]


def _user_turn(request: Any) -> Any:
    """The turn that `_check_request` put at the end."""
    return request.messages[-1]


class _Recorder:
    """The tokenizer, and what the server last gave to its template."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.text = tokenizer, ""
        self.seen: tuple[list[dict[str, Any]], dict[str, Any]] = ([], {})
        self._renders = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)

    @property
    def chat_template(self) -> Any:
        return self.tokenizer.chat_template

    @chat_template.setter
    def chat_template(self, template: Any) -> None:
        self.tokenizer.chat_template = template

    def encode(self, text: str, **arguments: Any) -> list[int]:
        # How long a prompt may be is ours to say.
        return self.tokenizer.encode(text, verbose=False, **arguments)

    def apply_chat_template(self, messages: list[dict[str, Any]], **arguments: Any) -> str:
        self.seen = (messages, arguments)
        self.text = _check_text(self.tokenizer.apply_chat_template(messages, **arguments)) if self._renders else ""
        return self.text

    @contextmanager
    def only_recording(self) -> Iterator[None]:
        """Let the server prepare turns that no template could render alone."""
        self._renders = False
        try:
            yield
        finally:
            self._renders = True


def _check_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = text[error.start]
        raise RowError("malformed", f"it has {half!r}, half of a surrogate pair, which is not a character") from None
    return text


def _template_key(tokenizer: Any) -> str:
    template = tokenizer.chat_template
    return template if isinstance(template, str) else repr(template)


@lru_cache(maxsize=4)
def _make_serving(tokenizer: Any, template: str) -> "tuple[OpenAIServingChat, _Recorder]":
    """The server's handler of chat calls over a tokenizer; `template` tells when another one is needed."""
    with _silence_imports():
        from sglang.srt.entrypoints.openai.serving_chat import OpenAIServingChat
        from sglang.srt.parser.template_manager import TemplateManager

    recorder, templates = _Recorder(tokenizer), TemplateManager()
    manager: Any = _make_manager(recorder)
    # Without a path, which the engine does not look at either where a model has a chat template.
    templates.initialize_templates(manager, model_path="")
    return OpenAIServingChat(manager, templates), recorder


def _make_manager(recorder: _Recorder) -> Any:
    """The settings that rendering depends on, as `launch` leaves them."""
    return SimpleNamespace(
        tokenizer=recorder,
        processor=None,
        served_model_name="",
        server_args=SimpleNamespace(
            tool_call_parser=None,
            reasoning_parser=None,
            default_chat_template_kwargs=None,
            context_length=None,
            allow_auto_truncate=False,
            hf_chat_template_name=None,
        ),
        model_config=SimpleNamespace(
            hf_config=SimpleNamespace(architectures=[], model_type=""),
            is_multimodal=False,
            get_default_sampling_params=dict,
        ),
    )


@contextmanager
def _silence_imports() -> Iterator[None]:
    """SGLang's imports warn of CUDA tools that rendering does not need."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
