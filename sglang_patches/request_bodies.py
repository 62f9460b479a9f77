"""Bodies that are no JSON, too large or nested too deeply are refused before anything parses them at length.

A middleware of the engine's HTTP server, put in place by :mod:`sglang_patches.http_routes`. SGLang reads a body of any
size, answers a compressed one with what its parser makes of the bytes, recurses into nested ones, and answers with
status 500 when its models stumble over a value of an unexpected kind.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from typing import Any

from sglang_patches.schemas import MAX_DEPTH, depth

MAX_BODY_BYTES = 32 << 20

_JSON = b"application/json"
_UTF_8 = {"utf-8", "utf8", "us-ascii", "ascii"}

Message = dict[str, Any]


class RefusedBodyError(Exception):
    """What is wrong with a body, and the status to answer with."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class CheckBodies:
    """ASGI middleware: hands a checked body on in one piece."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        if scope["type"] != "http" or scope["method"] not in ("POST", "PUT"):
            await self._app(scope, receive, send)
            return
        try:
            _check_headers(scope)
            body = await _read(receive)
            if body is not None:
                _check(body, scope)
        except RefusedBodyError as refusal:
            await _refuse(refusal, scope, receive, send)
            return
        if body is not None:
            await self._serve(body, scope, receive, send)

    async def _serve(self, body: bytes, scope: Message, receive: Callable[[], Awaitable[Message]], send: Any) -> None:
        try:
            await self._app(scope, _replay(body, receive), send)
        except Exception as error:  # only of the kind that SGLang's models raise while they read a body; others go on
            if not _is_from_reading(error):
                raise
            refusal = RefusedBodyError(400, f"the body is not what this path takes ({type(error).__name__}: {error})")
            await _refuse(refusal, scope, receive, send)


def _header(scope: Message, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def _check_headers(scope: Message) -> None:
    encoding = _header(scope, b"content-encoding").strip().lower()
    if encoding not in ("", "identity"):
        raise RefusedBodyError(415, f"Content-Encoding is {encoding!r}: send the body as it is, without compression")
    charset = _header(scope, b"content-type").lower().partition("charset=")[2].split(";")[0].strip(" \"'")
    if charset and charset not in _UTF_8:
        raise RefusedBodyError(415, f"the charset is {charset!r}: send JSON in UTF-8")


async def _read(receive: Callable[[], Awaitable[Message]]) -> bytes | None:
    """The whole body; None when the caller went away."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            raise RefusedBodyError(413, f"the body has more than {MAX_BODY_BYTES >> 20} MiB: send less")
        if not message.get("more_body", False):
            return b"".join(parts)


def _check(body: bytes, scope: Message) -> None:
    if not body or _JSON not in _header(scope, b"content-type").lower().encode():
        return
    import orjson

    try:
        body.decode()
        value = orjson.loads(body)
    except UnicodeDecodeError as error:
        raise RefusedBodyError(400, f"the body is not UTF-8 (byte {error.start}): encode it so") from None
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("Recursion limit"):
            raise RefusedBodyError(400, _TOO_DEEP) from None
        # Python's parser takes numbers that JSON does not have (NaN, Infinity); what becomes of them is said there.
        return
    if depth(value) > MAX_DEPTH:
        raise RefusedBodyError(400, _TOO_DEEP)


_TOO_DEEP = f"the body is nested more than {MAX_DEPTH} levels deep: make it flatter"


def _replay(body: bytes, receive: Callable[[], Awaitable[Message]]) -> Callable[[], Awaitable[Message]]:
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return pending.pop() if pending else await receive()

    return next_message


def _is_from_reading(error: Exception) -> bool:
    """Whether a body was being turned into a request, so that no answer has begun."""
    return any(frame.f_code.co_name == "request_body_to_args" for frame, _ in traceback.walk_tb(error.__traceback__))


async def _refuse(refusal: RefusedBodyError, scope: Message, receive: Any, send: Any) -> None:
    from fastapi.responses import ORJSONResponse

    error = {"message": str(refusal), "type": "invalid_request_error", "param": None, "code": None}
    # The rest of the body is not read, so the connection cannot serve another call.
    headers = {"Connection": "close"} if refusal.status == 413 else None
    response = ORJSONResponse({"error": error}, status_code=refusal.status, headers=headers)
    await response(scope, receive, send)
