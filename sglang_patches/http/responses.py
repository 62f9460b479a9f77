"""``/v1/responses`` of one engine remembers within limits, and answers what is asked of a response later.

Target: none; ``http_routes`` puts it before SGLang's application when the server state is set.
Why: SGLang keeps every response and its messages for ever, so an engine that is asked through this interface runs out
    of memory; what it replays of an earlier answer lacks the tool calls; and a response cannot be deleted.
How: an ASGI middleware gives SGLang every call as the first of its conversation, to be forgotten
    (:mod:`prefillshare.responses`, which the router uses in the same way), and keeps what comes back. Workers of a pair
    have no such middleware: their router remembers.
Upstream: sglang/srt/entrypoints/openai/serving_responses.py:133 at 0.5.17.
Remove when: upstream's store has limits and a way to delete.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson

from prefillshare.config.responses import Responses
from prefillshare.contract import RESPONSES_VARIABLE
from prefillshare.responses.errors import ResponsesError
from prefillshare.responses.exchange import Exchange
from prefillshare.responses.kept import KeptResponses
from prefillshare.wire.errors import error_object
from prefillshare.wire.paths import describe_method
from prefillshare.wire.text import as_json
from sglang_patches.http.request_state import PREFETCH, TENANT

PATH = "/v1/responses"
_ASKED = (
    ("GET", re.compile(PATH + "/([^/]+)"), KeptResponses.get),
    ("DELETE", re.compile(PATH + "/([^/]+)"), KeptResponses.delete),
    ("POST", re.compile(PATH + "/([^/]+)/cancel"), KeptResponses.cancel),
    ("GET", re.compile(PATH + "/([^/]+)/input_items"), KeptResponses.list_items),
)

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def read_limits() -> Responses | None:
    """The limits of this engine; None where it remembers nothing."""
    given = os.getenv(RESPONSES_VARIABLE)
    return Responses(**json.loads(given)) if given else None


class RememberResponses:
    """ASGI middleware before SGLang's application; ``abort`` ends a request of the engine by its id."""

    def __init__(self, app: Any, limits: Responses, abort: Callable[[str], None]) -> None:
        self._app = app
        self._abort = abort
        self._kept = KeptResponses(limits)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATH):
            await self._app(scope, receive, send)
            return
        try:
            if scope["path"] == PATH and scope["method"] == "POST":
                await self._create(scope, receive, send)
            else:
                await self._ask(scope, receive, send)
        except ResponsesError as error:
            kind, code = "invalid_request_error", "not_found" if error.status == 404 else None
            told = error_object(str(error), kind=kind, param=error.param, code=code)
            await _answer(send, error.status, as_json({"error": told}))

    async def _ask(self, scope: Message, receive: Receive, send: Send) -> None:
        matching = [(method, match[1], ask) for method, path, ask in _ASKED if (match := path.fullmatch(scope["path"]))]
        for method, response_id, ask in matching:
            if method == scope["method"]:
                told = ask(self._kept, response_id, _owner(scope))
                await _answer(send, 200, told if isinstance(told, bytes) else as_json(told))
                return
        methods = [method for method, _, _ in matching]
        if methods and scope["method"] not in ("OPTIONS", "HEAD"):
            raise ResponsesError(describe_method(scope["path"], scope["method"], methods), status=405)
        await self._app(scope, receive, send)

    async def _create(self, scope: Message, receive: Receive, send: Send) -> None:
        raw = await _read(receive)
        if raw is None:
            return
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        if not isinstance(body, dict):
            await self._app(scope, _replay(raw, receive), send)  # SGLang says what is wrong
            return
        exchange = self._kept.open(body, owner=_owner(scope), is_prefetch=scope.get("state", {}).get(PREFETCH, False))
        asked = orjson.dumps(exchange.body)
        if exchange.is_background:
            account = scope.get("state", {}).get(TENANT)
            during = None if account is None else account.running()
            queued = self._kept.start(exchange, lambda: self._compute(scope, asked, exchange.id), during)
            await _answer(send, 200, as_json(queued))
        else:
            await self._app(scope, _replay(asked, receive), _Answer(send, exchange).send)

    async def _compute(self, scope: Message, asked: bytes, response_id: str) -> tuple[int, bytes]:
        """Status and body of an answer that nobody waits for."""
        collected, task = _Collected(), asyncio.current_task()
        try:
            await self._app(dict(scope), _replay(asked, _never), collected.send)
        finally:
            # SGLang answers a cancelled call with an error, as if nothing had been cancelled.
            if task is not None and task.cancelling():
                self._abort(response_id)
        return collected.status, collected.body


class _Collected:
    """An answer that is kept in place of being sent."""

    def __init__(self) -> None:
        self.status = 500
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.body += message.get("body", b"")


class _Answer:
    """An answer on its way to the client; what is no stream is held back until it is whole."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange
        self._start: Message | None = None
        self._body = b""
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._is_stream = _is_stream(message)
            self._start = message
            if self._is_stream:
                await self._send(message)
            return
        if self._is_stream:
            piece = self._exchange.pass_on(message.get("body", b""))
            if piece or not message.get("more_body", False):
                await self._send({**message, "body": piece})
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            await self._finish()

    async def _finish(self) -> None:
        start, body = self._start, self._body
        assert start is not None
        if start["status"] == 200:
            body = orjson.dumps(self._exchange.finish(orjson.loads(body)))
        headers = [pair for pair in start["headers"] if pair[0].lower() != b"content-length"]
        await self._send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await self._send({"type": "http.response.body", "body": body})


def _owner(scope: Message) -> str:
    account = scope.get("state", {}).get(TENANT)
    return "" if account is None else str(account.name)


def _is_stream(start: Message) -> bool:
    kinds = [value for name, value in start["headers"] if name.lower() == b"content-type"]
    return bool(kinds and kinds[0].startswith(b"text/event-stream"))


async def _read(receive: Receive) -> bytes | None:
    """The whole body; None when the caller went away."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


async def _never() -> Message:
    """The client of a response in the background does not leave."""
    return await asyncio.Future()


async def _answer(send: Send, status: int, body: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
