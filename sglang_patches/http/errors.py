"""Every error of an engine is OpenAI's error object, with the reason in words.

Target: none; ``http_routes`` puts it around SGLang's application when the server state is set.
Why: SGLang answers errors in five forms ({"object": "error"}, {"message"}, {"detail"}, {"error": text}, plain text), so
    OpenAI clients show no reason; validation errors carry a Python literal and paths of this machine. A path that is
    not there is "Not Found".
How: an answer of status 400 and more that is JSON or text is held back, read and written anew, for Anthropic's clients
    in the form that these know; Ollama's endpoints keep theirs.
Upstream: sglang/srt/entrypoints/http_server.py:504-628, openai/serving_base.py:270, utils/auth.py:112 at 0.5.17.
Remove when: upstream answers all errors in OpenAI's form.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from prefillshare.contract import MESSAGES_PATH
from prefillshare.wire.errors import anthropic_error, error_text, openai_error
from prefillshare.wire.paths import CALLS, describe_method, describe_missing
from prefillshare.wire.text import as_json

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Form = Callable[[bytes, int], bytes]

_FORMS = {MESSAGES_PATH: anthropic_error, "/api/": None}
"""Begin of the paths of other vendors' interfaces -> how an error is written for their clients; None leaves it."""
_SAYS_NOTHING = {404: "Not Found", 405: "Method Not Allowed"}


def wrap_application(app: Any) -> None:
    """Let `app` answer errors in OpenAI's form; nothing may have been asked yet."""
    # Around everything, SGLang's own middlewares too, which answer errors in forms of their own (no API key).
    original = app.build_middleware_stack
    app.build_middleware_stack = lambda: ErrorShape(original())


class ErrorShape:
    """An ASGI application around another one."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        form = next((form for start, form in _FORMS.items() if scope["path"].startswith(start)), openai_error)
        await self._app(scope, receive, send if form is None else _Reshaped(send, form, scope).send)


class _Reshaped:
    """Passes on what is no error; holds an error back until it is whole."""

    def __init__(self, send: Send, form: Form, scope: Scope) -> None:
        self._send = send
        self._form = form
        self._scope = scope
        self._start: Message | None = None
        self._body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_error(message):
            self._start = message
        elif self._start is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            self._body += message.get("body", b"")
            if not message.get("more_body", False):
                await self._finish(self._start)

    async def _finish(self, start: Message) -> None:
        body = self._form(self._in_words(start), start["status"]) if self._body else b""
        kept = [pair for pair in start["headers"] if pair[0].lower() not in (b"content-length", b"content-type")]
        own = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await self._send({**start, "headers": [*kept, *own]})
        await self._send({"type": "http.response.body", "body": body})

    def _in_words(self, start: Message) -> bytes:
        """The body, but where it only repeats the status: then what the caller could have meant."""
        path, status = self._scope["path"], start["status"]
        if _SAYS_NOTHING.get(status) != error_text(self._body):
            return self._body
        allowed = [value.decode() for name, value in start["headers"] if name.lower() == b"allow"]
        if status == 404:
            told = describe_missing(path, CALLS)
        elif allowed:
            told = describe_method(path, self._scope["method"], allowed)
        else:
            return self._body
        return as_json({"message": told})


def _is_error(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    is_readable = not kinds or kinds[0].startswith((b"application/json", b"text/plain"))
    return bool(start["status"] >= 400 and is_readable)
