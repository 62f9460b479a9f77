"""Clients whose requests aiohttp has read: their answers go through aiohttp as well."""

import asyncio
from collections.abc import Callable, Mapping

from aiohttp import web

from prefillshare.routing.web.keys import account_of
from prefillshare.tenants.account import Account

Rewrite = Callable[[bytes], bytes]
"""Changes what is passed on, piece by piece. Raises AnswerError where that is not what it should be."""
_AT_ONCE_BYTES = 1 << 15
"""Of what was written and is not sent; aiohttp waits for a client from twice as much on."""


class AppCaller:
    """The client of one request."""

    def __init__(self, request: web.Request, rewrite: Rewrite | None = None) -> None:
        """A stream passes through `rewrite`, which may keep a piece back until more has come."""
        self._response: web.StreamResponse | None = None
        self._request = request
        self._rewrite = rewrite

    def made(self) -> web.StreamResponse:
        """Return the answer, for the handler of the request to return."""
        assert self._response is not None
        return self._response

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers."""
        return self._request.headers

    @property
    def method(self) -> str:
        """The request's method."""
        return self._request.method

    @property
    def path(self) -> str:
        """The path as it came."""
        return self._request.raw_path

    @property
    def account(self) -> Account | None:
        """The tenant whose request it is."""
        return account_of(self._request)

    def answer(self, body: bytes, *, status: int, headers: Mapping[str, str]) -> None:
        """Give a whole answer."""
        self._response = web.Response(body=body, status=status, headers=headers)

    async def begin_stream(self, *, status: int = 200, headers: Mapping[str, str]) -> "AppStreamWriter":
        """Begin an answer that comes in pieces."""
        self._response = response = _Stream(status=status, headers=headers)
        await response.prepare(self._request)
        return AppStreamWriter(response, self._request.transport, self._rewrite)


class _Stream(web.StreamResponse):
    """A stream towards the client, whose headers go out with its first piece: that is there already."""

    _send_headers_immediately = False


class AppStreamWriter:
    """A stream towards the client, by aiohttp."""

    __slots__ = ("_is_chunked", "_response", "_rewrite", "_transport", "last")

    def __init__(
        self, response: web.StreamResponse, transport: asyncio.Transport | None, rewrite: Rewrite | None
    ) -> None:
        """`response` is prepared."""
        self.last = b""
        self._response = response
        self._transport = transport
        self._rewrite = rewrite
        self._is_chunked = response.headers.get("Transfer-Encoding") == "chunked"

    def takes(self, piece: bytes) -> bool:
        """Whether writing `piece` waits for nobody."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        return transport.get_write_buffer_size() + len(piece) <= _AT_ONCE_BYTES

    async def write(self, piece: bytes) -> None:
        """Write a piece, and wait for a client that does not read."""
        # Also what is kept back for the rest of its event: nothing else may follow it.
        self.last = piece
        if self._rewrite is not None and not (piece := self._rewrite(piece)):
            return
        await self._response.write(piece)

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
        self.last = piece  # what is said of one that cannot be rewritten follows it
        piece = piece if self._rewrite is None else self._rewrite(piece)
        self.last = b""  # the end of the stream may be out although this fails: nothing may follow it
        await self._response.write_eof(piece)

    def cut_off(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.abort()
