"""The way back for the answer to a call that was read here: status and headers in one write with the first piece."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus

from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE

from prefillshare.routing.web.direct.asked import Asked
from prefillshare.tenants.account import Account

_AT_ONCE_BYTES = 1 << 15
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_END = b"0\r\n\r\n"


class DirectCaller:
    """The client of one call."""

    __slots__ = ("_drain", "_transport", "account", "asked", "has_begun", "is_over", "stays")

    def __init__(self, asked: Asked, transport: asyncio.Transport, drain: Callable[[], Awaitable[None]]) -> None:
        """`drain` waits until the client has read enough of what was written."""
        self.asked = asked
        self.account: Account | None = None
        """The tenant whose call it is."""
        self.stays = asked.stays
        """Whether the connection goes on after the answer; until the answer begins that may change."""
        self.has_begun = False
        """Whether a part of the answer may be out."""
        self.is_over = False
        """Whether all of it is."""
        self._transport = transport
        self._drain = drain

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers."""
        return self.asked.headers

    @property
    def method(self) -> str:
        """The request's method."""
        return self.asked.method

    @property
    def path(self) -> str:
        """The path as it came."""
        return self.asked.path

    def answer(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        """Give a whole answer."""
        head = _write_head(status, headers, f"Content-Length: {len(body)}", self.stays)
        self.has_begun = self.is_over = True
        self._transport.write(head + body)

    async def begin_stream(self, *, status: int = 200, headers: Mapping[str, str]) -> "DirectStreamWriter":
        """Begin an answer that comes in pieces."""
        head = _write_head(status, headers, "Transfer-Encoding: chunked", self.stays)
        return DirectStreamWriter(self, head, self._transport, self._drain)


class DirectStreamWriter:
    """A stream towards the client."""

    __slots__ = ("_caller", "_drain", "_head", "_transport", "last")

    def __init__(
        self, caller: DirectCaller, head: bytes, transport: asyncio.Transport, drain: Callable[[], Awaitable[None]]
    ) -> None:
        self.last = b""
        self._caller = caller
        self._head = head
        self._transport = transport
        self._drain = drain

    def takes(self, piece: bytes) -> bool:
        """Whether writing `piece` waits for nobody."""
        transport = self._transport
        return not transport.is_closing() and transport.get_write_buffer_size() + len(piece) <= _AT_ONCE_BYTES

    async def write(self, piece: bytes) -> None:
        """Write a piece, and wait for a client that does not read."""
        self._write(b"%x\r\n%b\r\n" % (len(piece), piece) if piece else b"")
        self.last = piece
        await self._drain()

    def write_at_once(self, piece: bytes) -> bool:
        """Write a further piece if that waits for nobody; return whether it did."""
        if not self.takes(piece):
            return False
        self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.last = piece
        return True

    async def write_last(self, piece: bytes) -> None:
        """Write the last piece and the end of the stream."""
        self.last = b""
        self._write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else _END)
        self._caller.is_over = True
        await self._drain()

    def cut_off(self) -> None:
        """End the connection."""
        self._transport.abort()

    def _write(self, data: bytes) -> None:
        if self._transport.is_closing():
            raise ConnectionResetError("the client has left")
        self._caller.has_begun = True
        head, self._head = self._head, b""
        self._transport.write(head + data)


class _Clock:
    """The lines that every answer has, made anew each second."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = ""

    def lines(self) -> str:
        """Return them."""
        now = int(time.time())
        if now != self._second:
            self._second, self._lines = now, f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}"
        return self._lines


_clock = _Clock()


def _write_head(status: int, headers: Mapping[str, str], length: str, stays: bool) -> bytes:
    """Return status line and headers."""
    lines = [f"HTTP/1.1 {status} {_REASONS.get(status, '')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [length, _clock.lines()]
    if not stays:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")
