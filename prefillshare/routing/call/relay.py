"""Passing an answer on to the client: bytes as they come, nothing looked into, nothing held back."""

import asyncio
import time

import aiohttp
import orjson
from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.errors import PrefillShareError
from prefillshare.routing.call.attempt import Attempt
from prefillshare.routing.errors import CallTimeoutError, RoutingError, WorkerFailedError, error_body
from prefillshare.routing.workers.client import Answer, LegFailedError


class StreamBrokenError(PrefillShareError):
    """A stream ended before its time; the client has been told within the stream."""

    def __init__(self, response: web.StreamResponse, error: Exception) -> None:
        super().__init__(str(error))
        self.response = response


async def relay(
    request: web.Request, attempt: Attempt, answer: Answer, settings: Router, deadline: float
) -> web.StreamResponse:
    """Send `answer` to the client of `request`; of a stream, piece by piece until it ends or `deadline` (loop time).

    Raises: StreamBrokenError.
    """
    headers = {
        "Content-Type": answer.content_type,
        "X-Prefill-Worker": attempt.pair.prefill.id,
        "X-Decode-Worker": attempt.decode.id,
    }
    if answer.rest is None:
        return web.Response(body=answer.body, status=answer.status, headers=headers)
    response = web.StreamResponse(headers=headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    await response.prepare(request)
    writer = _Writer(response)
    try:
        await _pass_on(writer, attempt, answer, settings.idle_timeout_s, deadline)
    except LegFailedError as error:
        await _tell(request, writer, WorkerFailedError(f"the answer broke off: {error}"))
        raise StreamBrokenError(response, error) from error
    except TimeoutError:
        worker = attempt.decode
        cause = LegFailedError(worker, f"sent nothing for {settings.idle_timeout_s:g} s, or the call took too long")
        await _tell(request, writer, CallTimeoutError(f"the answer stopped: {cause}"))
        raise StreamBrokenError(response, cause) from cause
    return response


class _Writer:
    """A stream towards the client that knows whether it is between two events."""

    __slots__ = ("last", "response")

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        self.last = b""

    async def write(self, piece: bytes) -> None:
        await self.response.write(piece)
        self.last = piece


async def _pass_on(writer: _Writer, attempt: Attempt, answer: Answer, idle_s: float, deadline: float) -> None:
    assert answer.rest is not None
    loop = asyncio.get_running_loop()
    piece = answer.content
    async with asyncio.timeout(None) as limit:
        while piece:
            limit.reschedule(min(loop.time() + idle_s, deadline))
            await writer.write(piece)
            piece = await _next_piece(attempt, answer.rest)


async def _next_piece(attempt: Attempt, rest: aiohttp.ClientResponse) -> bytes:
    """Return the next piece, empty at the end.

    Raises: LegFailedError when the decode worker broke off.
    """
    worker = attempt.decode
    try:
        piece = await rest.content.readany()
    except aiohttp.ClientError as error:
        raise LegFailedError(worker, f"broke off its answer ({error})") from None
    worker.last_byte_at = time.monotonic()
    return piece


async def _tell(request: web.Request, writer: _Writer, error: RoutingError) -> None:
    """End a stream with an error event; in the middle of an event, cut the connection, so that nobody reads on."""
    if writer.last.endswith(b"\n\n"):
        await writer.write(b"data: " + orjson.dumps(error_body(error)) + b"\n\n")
        await writer.response.write_eof()
    elif request.transport is not None:
        request.transport.abort()
