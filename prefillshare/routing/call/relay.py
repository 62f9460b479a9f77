"""Passing an answer on to the client: bytes as they come, nothing looked into, nothing held back."""

import asyncio
import time
from collections.abc import Callable

import orjson
from aiohttp import web

from prefillshare.config.router import Router
from prefillshare.contract import MESSAGES_PATH
from prefillshare.errors import PrefillShareError
from prefillshare.routing.call.underway import Underway
from prefillshare.routing.errors import CallTimeoutError, RoutingError, WorkerFailedError, error_body
from prefillshare.routing.http.errors import BrokenOffError
from prefillshare.routing.http.reply import Reply
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import LegFailedError
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.errors import anthropic_error

_SLACK = 1 / 16
"""Share of the idle time by which a pause between two pieces may be longer."""


_AT_ONCE_BYTES = 1 << 15
"""Of what was written and is not sent; aiohttp waits for a client from twice as much on."""


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
    response = Stream(headers=headers | {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
    await response.prepare(request)  # the status is out: from here on a failure can only be told within the stream
    writer = Writer(response, request.transport, underway.rewrite)
    try:
        await _pass_on(underway, writer, decode, answer, settings.idle_timeout_s)
    except LegFailedError as error:
        await end_with_error(request, writer, WorkerFailedError(f"the answer broke off: {error}"))
        raise StreamBrokenError(response, error) from error
    except TimeoutError:
        what = f"sent nothing for {settings.idle_timeout_s:g} s, or the call took too long"
        cause = LegFailedError(decode, what)
        await end_with_error(request, writer, CallTimeoutError(f"the answer stopped: {cause}"))
        raise StreamBrokenError(response, cause) from cause
    return response


class Stream(web.StreamResponse):
    """A stream towards the client, whose headers go out with its first piece: that is there already."""

    _send_headers_immediately = False


class Writer:
    """A stream towards the client that knows whether it is between two events."""

    __slots__ = ("_is_chunked", "_rewrite", "_transport", "last", "response")

    def __init__(
        self,
        response: web.StreamResponse,
        transport: asyncio.Transport | None,
        rewrite: Callable[[bytes], bytes] | None = None,
    ) -> None:
        """`response` is prepared; pieces pass through `rewrite`, which may keep one back until more has come."""
        self._rewrite = rewrite
        self.response = response
        self.last = b""
        self._transport = transport
        self._is_chunked = response.headers.get("Transfer-Encoding") == "chunked"

    def takes(self, piece: bytes) -> bool:
        """Whether writing `piece` waits for nobody."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return transport.get_write_buffer_size() + len(piece) <= _AT_ONCE_BYTES

    async def write(self, piece: bytes) -> None:
        """Write a piece, and wait for a client that does not read."""
        if self._rewrite is not None and not (piece := self._rewrite(piece)):
            return
        await self.response.write(piece)
        self.last = piece

    def write_at_once(self, piece: bytes) -> bool:
        """Write a further piece if that waits for nobody; return whether it did."""
        if self._rewrite is not None or not self._is_chunked or not self.takes(piece):
            return False
        assert self._transport is not None
        # What aiohttp's writer would send, without the way there. The headers went out with the first piece.
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.last = piece
        return True

    async def write_last(self, piece: bytes) -> None:
        """Write the last piece and the end of the stream."""
        piece = piece if self._rewrite is None else self._rewrite(piece)
        self.last = b""  # the end of the stream may be out although this fails: nothing may follow it
        await self.response.write_eof(piece)


class _Pump:
    """Passes on what a worker sends, for as long as neither it nor the client pauses for too long."""

    def __init__(
        self, underway: Underway, writer: Writer, decode: Worker, limit: asyncio.Timeout, idle_s: float
    ) -> None:
        self._writer = writer
        self._decode = decode
        self._limit = limit
        self._idle_s = idle_s
        self._deadline = underway.deadline
        self._loop = underway.loop
        self._renewed_at = float("-inf")

    async def run(self, piece: bytes, rest: Reply) -> None:
        """Write `piece` and what comes of the `rest`.

        Raises: LegFailedError, TimeoutError.
        """
        while piece:
            self._renew()
            if rest.is_read:
                await self._writer.write_last(piece)
                return
            await self._writer.write(piece)
            try:
                piece = await rest.read_piece(self._pass_on)
            except BrokenOffError as error:
                raise LegFailedError(self._decode, f"broke off its answer ({error})") from None
            self._decode.last_byte_at = time.monotonic()

    def _pass_on(self, piece: bytes) -> bool:
        if not self._writer.write_at_once(piece):
            return False
        self._decode.last_byte_at = time.monotonic()
        self._renew()
        return True

    def _renew(self) -> None:
        # Writing counts too: a client that does not read is waited for no longer than a worker that does not send.
        # Pieces may come by the thousand: the limit is so much longer that it need not be set for each.
        now = self._loop.time()
        if now - self._renewed_at > _SLACK * self._idle_s and not self._limit.expired():
            self._limit.reschedule(min(now + (1 + _SLACK) * self._idle_s, self._deadline))
            self._renewed_at = now


async def _pass_on(underway: Underway, writer: Writer, decode: Worker, answer: Answer, idle_s: float) -> None:
    """Write what `decode` sends.

    Raises: LegFailedError, TimeoutError.
    """
    assert answer.rest is not None
    if answer.rest.is_read and writer.takes(answer.content):
        await writer.write_last(answer.content)  # the whole answer came at once, and goes out so
        return
    async with asyncio.timeout(None) as limit:
        await _Pump(underway, writer, decode, limit, idle_s).run(answer.content, answer.rest)


async def end_with_error(request: web.Request, writer: Writer, error: RoutingError) -> None:
    """End a stream with an error event; in the middle of an event, cut the connection, so that nobody reads on."""
    if writer.last.endswith(b"\n\n"):
        await writer.write(_error_event(request, error))
        await writer.response.write_eof()
    elif request.transport is not None:
        request.transport.abort()


def _error_event(request: web.Request, error: RoutingError) -> bytes:
    told = orjson.dumps(error_body(error))
    if request.path.startswith(MESSAGES_PATH):
        return b"event: error\ndata: " + anthropic_error(told, error.status) + b"\n\n"
    return b"data: " + told + b"\n\n"
