"""One connection to a server: one request at a time, and the answer to it, parsed as it comes."""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from prefillshare.routing.http.errors import BrokenOffError
from prefillshare.routing.http.reply import Reply

_SLICE_BYTES = 1 << 18
"""A larger body is written in pieces of that size, so that other calls are served in between."""
_WITHOUT_BODY = frozenset((204, 304))
_MAX_HEAD_BYTES = 1 << 16


class Connection(asyncio.Protocol):
    """One connection; `on_idle` hears when it may take a further request, `on_closed` when it is gone."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        on_idle: "Callable[[Connection], None]",
        on_closed: "Callable[[Connection], None]",
    ) -> None:
        self.idle_since = 0.0
        self._loop = loop
        self._on_idle = on_idle
        self._on_closed = on_closed
        self._parser = httptools.HttpResponseParser(self)
        self._reply: Reply | None = None
        self._is_sending = False
        self._is_reply_over = False
        self._keeps_alive = False
        self._has_length = False
        self._num_head_bytes = 0
        self._may_write = asyncio.Event()
        self._may_write.set()

    @property
    def is_usable(self) -> bool:
        """Whether it can take a request."""
        return self._reply is None and not self._transport.is_closing()

    def request(self, head: bytes, body: bytes, *, is_stream: bool) -> Reply:
        """Send a request whose body is small; return its answer, of which nothing is there yet."""
        reply = self._expect_reply(is_stream)
        self._transport.write(head + body)
        return reply

    async def request_slowly(self, head: bytes, body: bytes, *, is_stream: bool) -> Reply:
        """Send a request piece by piece, as fast as the server takes it; return its answer.

        It stops when the answer is over before: a server may say no to a body that it has not read.
        """
        reply = self._expect_reply(is_stream)
        self._is_sending = True
        try:
            self._transport.write(head)
            view = memoryview(body)
            for start in range(0, len(body), _SLICE_BYTES):
                if reply.is_over:
                    return reply
                self._transport.write(view[start : start + _SLICE_BYTES])
                await asyncio.sleep(0)
                await self._may_write.wait()
        except asyncio.CancelledError:
            self.close()
            raise
        self._is_sending = False
        return reply

    def close(self) -> None:
        """End the connection at once."""
        self._transport.abort()

    def _expect_reply(self, is_stream: bool) -> Reply:
        assert self._reply is None
        self._num_head_bytes = 0
        self._reply = Reply(self._loop, wants_whole=not is_stream, close=self.close, pause=self._pause)
        return self._reply

    def _pause(self, is_paused: bool) -> None:
        if not self._transport.is_closing():
            (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def _settle(self) -> None:
        """The answer is over: take a further request, or end."""
        self._is_reply_over = False
        # A server that answered before it had the whole request would take the rest of it for another one.
        if self._keeps_alive and not self._is_sending:
            self._on_idle(self)
        else:
            self.close()

    def _limit_head(self, num_bytes: int) -> None:
        """Count bytes after which the headers are not over."""
        self._num_head_bytes += num_bytes
        if self._num_head_bytes > _MAX_HEAD_BYTES:
            self._break_off(BrokenOffError(f"it sent more than {_MAX_HEAD_BYTES} bytes of headers"))

    def _break_off(self, error: BrokenOffError) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.end(error)
            reply.wake()
        self._may_write.set()
        self.close()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's does not inherit from it

    def connection_lost(self, exc: Exception | None) -> None:
        """End what was under way."""
        reply = self._reply
        if reply is not None and exc is None and reply.status and not self._has_length:
            # Such an answer ends with its connection: there is no other sign of it.
            self._reply = None
            reply.end()
            reply.wake()
        self._break_off(BrokenOffError(f"it closed the connection{f' ({exc})' if exc else ''}"))
        self._on_closed(self)
        del self._parser  # which holds this connection in turn

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer."""
        reply = self._reply
        try:
            self._parser.feed_data(data)
            if self._is_reply_over:
                self._settle()
            elif reply is not None and not reply.status:
                self._limit_head(len(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._break_off(BrokenOffError(f"it sent what is no answer: {error}"))
        if reply is not None:
            reply.wake()

    def pause_writing(self) -> None:
        """Hear that the server does not take what is sent."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Hear that it does again."""
        self._may_write.set()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin an answer, which somebody must have asked for."""
        if self._reply is None:
            raise BrokenOffError("nobody asked for it")
        self._has_length = False
        self._reply.headers.clear()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a header."""
        assert self._reply is not None
        self._reply.headers.append((name, value))
        # Whether the answer ends by itself. Both at once, and two lengths, the parser refuses.
        self._has_length |= name.lower() in (b"content-length", b"transfer-encoding")

    def on_headers_complete(self) -> None:
        """Take in the status."""
        assert self._reply is not None
        status = self._parser.get_status_code()
        if status >= 200:
            self._reply.status = status
        self._has_length |= status in _WITHOUT_BODY

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        assert self._reply is not None
        self._reply.add(body)

    def on_message_complete(self) -> None:
        """End the answer, unless it only says that another one follows."""
        if self._reply is None or not self._reply.status:
            return
        self._keeps_alive = self._parser.should_keep_alive()
        self._reply.end()
        self._reply = None
        self._is_reply_over = True
