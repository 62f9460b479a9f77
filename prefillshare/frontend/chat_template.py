"""A model's Jinja chat template as SGLang's frontend writes chats: a prefix and a suffix for each role.

The frontend sends text, so it must write turns itself. Small conversations are rendered, and what stands around their
contents is taken apart; then whole conversations are written both ways and compared. A template that cannot be written
as prefixes and suffixes is refused. The tokenizer adds what begins every text (BOS), so it is left out here.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from sglang.lang.chat_template import ChatTemplate

from prefillshare.errors import PrefillShareError

Message = Mapping[str, str]

_SYSTEM, _USER, _ASSISTANT, _NEXT = (
    {"role": role, "content": content}
    for role, content in (("system", "SYSTEM."), ("user", "FIRST."), ("assistant", "ANSWER."), ("user", "SECOND."))
)


class _NotSimpleError(Exception):
    """The template is not made of prefixes and suffixes."""


def derive(source: str | None) -> ChatTemplate:
    """Return the template `source` in SGLang's form.

    Raises: PrefillShareError when there is none, or it has no such form.
    """
    if source is None:
        raise PrefillShareError("this model has no single chat template: give chat_template_name, one of SGLang's")
    try:
        model = _ModelTemplate(source)
        template = _taken_apart(model)
        _compare(model, template)
    except (_NotSimpleError, TemplateError) as error:
        raise PrefillShareError(
            f"the model's chat template cannot be written as prefixes and suffixes of roles ({error}): "
            "give chat_template_name, one of SGLang's"
        ) from None
    return template


class _ModelTemplate:
    """Renders as transformers does."""

    def __init__(self, source: str) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        self._template = environment.from_string(source)

    def render(self, *messages: Message, asks: bool = False) -> str:
        """Return the conversation as text, with the beginning of an answer if it `asks` for one."""
        return self._template.render(messages=messages, add_generation_prompt=asks, bos_token="", eos_token="")

    def has_system(self) -> bool:
        """Whether a system turn can be written."""
        try:
            return _SYSTEM["content"] in self.render(_SYSTEM, _USER)
        except TemplateError:
            return False


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _taken_apart(model: _ModelTemplate) -> ChatTemplate:
    before_user, user_suffix = _around(model.render(_USER), _USER)
    assistant_prefix = _rest(_around(model.render(_USER, asks=True), _USER)[1], user_suffix)
    assistant_suffix = _around(model.render(_USER, _ASSISTANT), _ASSISTANT)[1]
    between = _around(_around(model.render(_USER, _ASSISTANT, _NEXT), _ASSISTANT)[1], _NEXT)[0]
    user_prefix = _rest(between, assistant_suffix)
    roles = {"user": (user_prefix, user_suffix), "assistant": (assistant_prefix, assistant_suffix)}
    default = _rest_before(before_user, user_prefix)
    if model.has_system():
        system_prefix, rest = _around(model.render(_SYSTEM, _USER), _SYSTEM)
        system_suffix = _rest_before(_around(rest, _USER)[0], user_prefix)
        roles["system"] = (system_prefix, system_suffix)
        default = default and _rest(_rest_before(default, system_suffix), system_prefix)
    elif default:
        raise _NotSimpleError(f"{default[:40]!r} stands before the first turn")
    return ChatTemplate(
        name="model",
        default_system_prompt=default or None,
        role_prefix_and_suffix=roles,
        stop_str=[stop] if (stop := assistant_suffix.strip()) else [],
    )


def _compare(model: _ModelTemplate, template: ChatTemplate) -> None:
    conversations = [[_USER, _ASSISTANT, _NEXT]]
    if "system" in template.role_prefix_and_suffix:
        conversations += [[_SYSTEM, *conversations[0]]]
        conversations[0] = [{"role": "system", "content": template.default_system_prompt}, *conversations[0]]
    for messages in conversations:
        spoken = [message for message in messages if message["content"]]
        written = template.get_prompt(messages)
        if written != model.render(
            *(message for message in spoken if message["content"] != template.default_system_prompt)
        ):
            raise _NotSimpleError("a conversation of several turns comes out differently")


def _around(text: str, message: Message) -> tuple[str, str]:
    before, found, after = text.partition(message["content"])
    if not found:
        raise _NotSimpleError(f"the content of a {message['role']} turn is changed or left out")
    return before, after


def _rest(text: str, prefix: str) -> str:
    if not text.startswith(prefix):
        raise _NotSimpleError(f"{text[:40]!r} does not begin with {prefix[:40]!r}")
    return text.removeprefix(prefix)


def _rest_before(text: str, suffix: str) -> str:
    if not text.endswith(suffix):
        raise _NotSimpleError(f"{text[:40]!r} does not end with {suffix[:40]!r}")
    return text.removesuffix(suffix)
