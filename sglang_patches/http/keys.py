"""A request has one key, in the form that SGLang compares.

Target: none; ``http_routes`` puts it around SGLang's application when the server state is set, inside of
    ``http/tenants``, which reads the key itself.
Why: Anthropic's clients send their key by another name. A key with letters beyond ASCII ends in an exception, hence
    500, where SGLang compares it. Of several keys it would take another one than a router.
How: an ASGI application around SGLang's own leaves one header in place of all that name keys. What is not ASCII is no
    key that a server has.
Upstream: sglang/srt/utils/auth.py:112 at 0.5.17.
Remove when: upstream takes both names, and compares bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from prefillshare.wire.keys import OWN_HEADER, find_key

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[bytes, bytes]]

AUTHORIZATION = b"authorization"
_NAMES = (AUTHORIZATION, OWN_HEADER.lower().encode())


def wrap_application(app: Any) -> None:
    """Let `app` see one key; nothing may have been asked yet."""
    original = app.build_middleware_stack
    app.build_middleware_stack = lambda: OneKey(original())


class OneKey:
    """An ASGI application around another one."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            key = read_key(scope["headers"])
            scope = {**scope, "headers": with_key(scope["headers"], key if key.isascii() else "")}
        await self._app(scope, receive, send)


def read_key(headers: Headers) -> str:
    """The key that a request has, its bytes beyond UTF-8 as lone surrogates; empty where it has none."""
    values: dict[str, str] = {}
    for name, value in headers:
        values.setdefault(name.decode("latin-1"), value.decode(errors="surrogateescape"))
    return find_key(lambda name: values.get(name.lower()))


def with_key(headers: Headers, key: str) -> list[tuple[bytes, bytes]]:
    """The headers with ``key`` in place of all that name keys; without any where it is empty."""
    others = [pair for pair in headers if pair[0] not in _NAMES]
    return [*others, (AUTHORIZATION, f"Bearer {key}".encode())] if key else others
