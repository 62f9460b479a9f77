"""A client of HTTP servers that keeps its connections."""

import asyncio
import socket
import ssl
from collections.abc import Mapping
from urllib.parse import urlsplit

import aiohappyeyeballs

from prefillshare.routing.http.connection import Connection
from prefillshare.routing.http.errors import CannotConnectError, ConnectTimeoutError
from prefillshare.routing.http.reply import Reply
from prefillshare.routing.http.sockets import open_socket

# SGLang by itself, as a worker that was started elsewhere, closes a connection that was idle for 5 s; reusing one at
# that moment would fail the call.
KEEP_ALIVE_S = 3.0
_SMALL_BODY_BYTES = 1 << 18
_NEXT_ADDRESS_S = 0.25
"""Of a server with several addresses the next one is tried when one has not answered for so long."""
_PORTS = {"http": 80, "https": 443}


class Origin:
    """One server, and the connections to it that nobody uses at the moment, those that were used last at the end."""

    __slots__ = ("host", "idle", "is_forgotten", "name", "port", "tls")

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        self.name = parts.netloc.rpartition("@")[2]
        self.host = parts.hostname
        self.port = parts.port or _PORTS[parts.scheme]
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.idle: dict[Connection, None] = {}
        self.is_forgotten = False

    def take(self, now: float) -> Connection | None:
        """Return the connection that was used last, if it is fresh enough to be used again."""
        while self.idle:
            connection, _ = self.idle.popitem()
            if now - connection.idle_since < KEEP_ALIVE_S and connection.is_usable:
                return connection
            connection.close()
        return None

    def close_stale(self, now: float) -> None:
        """Close connections that were not used for long."""
        for connection in list(self.idle):
            if now - connection.idle_since < KEEP_ALIVE_S:
                break
            del self.idle[connection]
            connection.close()


class HttpClient:
    """Sends requests; must be made inside the event loop that it is used in."""

    def __init__(self, connect_timeout_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._connect_timeout_s = connect_timeout_s
        self._origins: dict[str, Origin] = {}
        self._connections: set[Connection] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def request(
        self,
        method: str,
        url: str,
        path: str,
        *,
        headers: Mapping[str, str],
        body: bytes = b"",
        is_stream: bool = False,
    ) -> Reply:
        """Send a request to `path` of the server at `url`; return its answer, of which nothing need be there yet.

        A stream can be read piece by piece, anything else only whole.
        Raises: CannotConnectError, ConnectTimeoutError, BrokenOffError; ValueError for a header with a line end in it.
        """
        origin = self._origin(url)
        head = _make_head(method, path, origin.name, headers, len(body))
        connection = origin.take(self._loop.time()) or await self._connect(origin)
        if len(body) <= _SMALL_BODY_BYTES:
            return connection.request(head, body, is_stream=is_stream)
        return await connection.request_slowly(head, body, is_stream=is_stream)

    def forget(self, url: str) -> None:
        """Close the connections to the server at `url`, those in use after their answers: it is not asked any more."""
        origin = self._origins.pop(url, None)
        if origin is not None:
            origin.is_forgotten = True
            for connection in list(origin.idle):
                connection.close()

    def close(self) -> None:
        """Close all connections."""
        if self._sweep is not None:
            self._sweep.cancel()
        for connection in list(self._connections):
            connection.close()

    def _origin(self, url: str) -> Origin:
        origin = self._origins.get(url)
        if origin is None:
            origin = self._origins[url] = Origin(url)
        return origin

    async def _connect(self, origin: Origin) -> Connection:
        """Return a new connection.

        Raises: CannotConnectError, ConnectTimeoutError.
        """
        is_late = asyncio.timeout(self._connect_timeout_s)
        try:
            async with is_late:
                connection = await self._open(origin)
        except OSError as error:
            if is_late.expired():
                raise ConnectTimeoutError(f"no connection within {self._connect_timeout_s:g} s") from None
            raise CannotConnectError(error) from None
        self._connections.add(connection)
        return connection

    async def _open(self, origin: Origin) -> Connection:
        loop = self._loop
        infos = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
        opened = await aiohappyeyeballs.start_connection(
            infos, happy_eyeballs_delay=_NEXT_ADDRESS_S, interleave=1, loop=loop, socket_factory=open_socket
        )

        def keep(connection: Connection) -> None:
            if origin.is_forgotten:
                connection.close()
                return
            connection.idle_since = loop.time()
            origin.idle[connection] = None
            if self._sweep is None:
                self._sweep = loop.call_later(KEEP_ALIVE_S, self._close_stale)

        def drop(connection: Connection) -> None:
            origin.idle.pop(connection, None)
            self._connections.discard(connection)

        _, connection = await loop.create_connection(
            lambda: Connection(loop, on_idle=keep, on_closed=drop),
            sock=opened,
            ssl=origin.tls,
            server_hostname=origin.host if origin.tls else None,
        )
        return connection

    def _close_stale(self) -> None:
        now = self._loop.time()
        for origin in self._origins.values():
            origin.close_stale(now)
        has_idle = any(origin.idle for origin in self._origins.values())
        self._sweep = self._loop.call_later(KEEP_ALIVE_S / 3, self._close_stale) if has_idle else None


def _make_head(method: str, path: str, host: str, headers: Mapping[str, str], num_bytes: int) -> bytes:
    """Return request line and headers.

    Raises: ValueError.
    """
    lines = [f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {num_bytes}"]
    for name, value in headers.items():
        _check_line(value)
        lines.append(f"{name}: {value}")
    lines.append("\r\n")
    return "\r\n".join(lines).encode()


def _check_line(value: str) -> None:
    # Whoever could end a line here could send the worker a request of their own.
    if "\n" in value or "\r" in value or "\0" in value:
        raise ValueError(f"a header holds a line end: {value[:40]!r}")
