"""The canonical form of a prompt: bytes that begin alike when two prompts begin alike for the prefix cache.

`cache_salt` and `extra_key` come first, so prompts of two namespaces share nothing here either. Of a chat, tools and
template settings come before the messages, as chat templates put them; a message's role before its text, so that two
long texts which differ at their end still share their beginning.
"""

from array import array
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from prefillshare.routing.call.call import Body

_FIELD = b"\x1f"
_MESSAGE = b"\x1e"
_FIRST_USER = _MESSAGE + b"user" + _FIELD
_BEGINNING_BYTES = 512
_CHAT_SETTINGS = ("tools", "tool_choice", "chat_template_kwargs", "reasoning_effort")
MAX_INDEXED_PROMPTS = 32
"""Prompts of a batch that count for the choice of workers; more would make a batch of thousands slow to route."""


def chat_prompts(body: Body) -> tuple[bytes, ...]:
    """Return the one prompt of a chat call."""
    settings = {name: body[name] for name in _CHAT_SETTINGS if body.get(name) is not None}
    parts = [_namespace(body), b"chat", _dumps(settings) if settings else b""]
    parts.extend(_message(message) for message in body["messages"])
    return (_MESSAGE.join(parts),)


def text_prompts(body: Body, prompt: Any) -> tuple[bytes, ...]:
    """Return the prompts of a completion: text, token ids, or a list of either."""
    head = _namespace(body)
    if isinstance(prompt, str):
        return (head + _text(prompt),)
    if prompt and isinstance(prompt[0], int):
        return (head + _token_ids(prompt),)
    indexed = prompt[:MAX_INDEXED_PROMPTS]
    return tuple(head + (_text(item) if isinstance(item, str) else _token_ids(item)) for item in indexed)


def find_beginning(prompt: bytes) -> bytes:
    """Return so much of a canonical prompt as all turns of its session have in common, and few other sessions have.

    Of a chat that is everything up to its first user message: what comes before is often the same for all users.
    """
    user = prompt.find(_FIRST_USER)
    if user < 0:
        return prompt[:_BEGINNING_BYTES]
    end = prompt.find(_MESSAGE, user + len(_FIRST_USER))
    return prompt if end < 0 else prompt[:end]


def _namespace(body: Body) -> bytes:
    # First of all bytes: from here on two namespaces differ, as their KV does in a worker's cache.
    keys = [body.get("cache_salt"), body.get("extra_key")]
    return _dumps(keys) + _MESSAGE if any(keys) else _MESSAGE


def _message(message: Any) -> bytes:
    if not isinstance(message, Mapping):
        return _dumps(message)
    content = message.get("content")
    text = content.encode() if isinstance(content, str) else _dumps(content)
    rest = {name: value for name, value in message.items() if name not in ("role", "content") and value is not None}
    role = str(message.get("role")).encode()
    return _FIELD.join((role, text, _dumps(rest)) if rest else (role, text))


def _text(text: str) -> bytes:
    return b"text" + text.encode()


def _token_ids(ids: Sequence[Any]) -> bytes:
    return b"ids" + array("I", ids).tobytes()


def _dumps(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
