"""Passing an answer on to the client: bytes as they come, nothing looked into, nothing held back."""

import asyncio
import time

import aiohttp
import orjson
from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.errors import PrefillShareError
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.errors import CallTimeoutError, RoutingError, WorkerFailedError, error_body
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker

_SLACK = 1 / 16
"""Share of the idle time by which a pause between two pieces may be longer."""


class StreamBrokenError(PrefillShareError):
    """A stream ended before its time; the client has been told within the stream."""

    def __init__(self, response: web.StreamResponse, error: Exception) -> None:
        super().__init__(str(error))
        self.response = response


async def relay(
    underway: Underway, prefill: Worker, decode: Worker, answer: Answer, settings: Router
) -> web.StreamResponse:
    """Send `answer`, which `prefill` and `decode` have made, to the client; a stream piece by piece until it ends.

    Raises: StreamBrokenError.
    """
    headers = {"Content-Type": answer.content_type, "X-Prefill-Worker": prefill.id, "X-Decode-Worker": decode.id}
    if answer.rest is None:
        return web.Response(body=answer.body, status=answer.status, headers=headers)
    request = underway.request
    response = web.StreamResponse(headers=headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    await response.prepare(request)  # the status is out: from here on a failure can only be told within the stream
    writer = Writer(response)
    try:
        await _pass_on(writer, decode, answer, settings.idle_timeout_s, underway.deadline)
    except LegFailedError as error:
        await end_with_error(request, writer, WorkerFailedError(f"the answer broke off: {error}"))
        raise StreamBrokenError(response, error) from error
    except TimeoutError:
        what = f"sent nothing for {settings.idle_timeout_s:g} s, or the call took too long"
        cause = LegFailedError(decode, what)
        await end_with_error(request, writer, CallTimeoutError(f"the answer stopped: {cause}"))
        raise StreamBrokenError(response, cause) from cause
    return response


class Writer:
    """A stream towards the client that knows whether it is between two events."""

    __slots__ = ("last", "response")

    def __init__(self, response: web.StreamResponse) -> None:
        self.response = response
        self.last = b""

    async def write(self, piece: bytes) -> None:
        await self.response.write(piece)
        self.last = piece


async def _pass_on(writer: Writer, decode: Worker, answer: Answer, idle_s: float, deadline: float) -> None:
    assert answer.rest is not None
    loop = asyncio.get_running_loop()
    piece, renewed_at = answer.content, float("-inf")
    async with asyncio.timeout(None) as limit:
        while piece:
            # Writing counts too: a client that does not read is waited for no longer than a worker that does not send.
            # Pieces may come by the thousand: the limit is so much longer that it need not be set for each.
            now = loop.time()
            if now - renewed_at > _SLACK * idle_s:
                limit.reschedule(min(now + (1 + _SLACK) * idle_s, deadline))
                renewed_at = now
            await writer.write(piece)
            piece = await _read_piece(decode, answer.rest)


async def _read_piece(worker: Worker, rest: aiohttp.ClientResponse) -> bytes:
    """Return the next piece of what `worker` sends, empty at the end.

    Raises: LegFailedError when it broke off.
    """
    try:
        piece = await rest.content.readany()
    except aiohttp.ClientError as error:
        raise LegFailedError(worker, f"broke off its answer ({error})") from None
    worker.last_byte_at = time.monotonic()
    return piece


async def end_with_error(request: web.Request, writer: Writer, error: RoutingError) -> None:
    """End a stream with an error event; in the middle of an event, cut the connection, so that nobody reads on."""
    if writer.last.endswith(b"\n\n"):
        await writer.write(b"data: " + orjson.dumps(error_body(error)) + b"\n\n")
        await writer.response.write_eof()
    elif request.transport is not None:
        request.transport.abort()
