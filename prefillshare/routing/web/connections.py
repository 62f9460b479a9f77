"""The clients' connections, on aiohttp's server: counted, and closed when nobody uses them.

Idle and half-sent ones end by aiohttp's keep-alive timer, which runs from the moment a connection is made and stops
only while a request is answered. While descriptors are short (`descriptors.py`), new connections get a short timer
and those that were idle for a moment are closed; when they are nearly spent each new connection takes the place of an
idle one, and where there is none it is refused before it has asked.
"""

import asyncio
import itertools
import logging
import select
from collections.abc import Iterator

from aiohttp import web

from prefillshare.contract import MESSAGES_PATH
from prefillshare.routing.errors import BadCallError, RoutingError
from prefillshare.routing.gateway import Gateway
from prefillshare.routing.web.direct.lane import Lane
from prefillshare.routing.web.keys import GATEWAY
from prefillshare.routing.web.replies import as_anthropic, error_reply

log = logging.getLogger(__name__)

SHORT_IDLE_S = 5.0
"""How long an idle connection stays while descriptors are short."""
_LEAST_IDLE_S = 0.05
"""One that was used more lately may have a request on its way."""
_SWEEP_PAUSE_S = 1.0
_LOOK_S = 1.0
"""Pause between two looks whether a client that is not read has left."""
_MAX_REASON = 200


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("busy", "idle_since", "lane", "watch")

    def __init__(
        self, manager: web.Server, gateway: Gateway, *, loop: asyncio.AbstractEventLoop, **kwargs: object
    ) -> None:
        super().__init__(manager, loop=loop, **kwargs)  # type: ignore[arg-type]
        self.busy = 0
        self.idle_since = loop.time()
        self.lane = Lane(self, gateway, loop)
        self.watch: asyncio.TimerHandle | None = None  # while the client is not read

    def is_idle(self, seconds: float) -> bool:
        """Whether for so long nothing came, nothing was answered here and nothing is left to send."""
        rests = self.busy == 0 and self._loop.time() - self.idle_since >= seconds
        return rests and self.transport is not None and self.transport.get_write_buffer_size() == 0

    def data_received(self, data: bytes) -> None:
        """Take in a request, or a part of one."""
        if not data:  # aiohttp itself, to have it read what it had put off
            super().data_received(data)
            return
        self.idle_since = self._loop.time()
        if not self.lane.take(data):
            super().data_received(data)

    def read_elsewhere(self, data: bytes) -> None:
        """Let aiohttp read `data`, which `lane` does not take."""
        super().data_received(data)

    @property
    def waits(self) -> bool:
        """Whether aiohttp has answered all whole requests that it was given."""
        return self._waiter is not None and not self._messages

    async def drain(self) -> None:
        """Wait until the client has read enough of what was written."""
        if self._paused:
            await self._drain_helper()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Hear that the client has left."""
        self.lane.lose()
        self._stop_watching()
        super().connection_lost(exc)

    def close(self) -> None:
        """Take no further request."""
        self.lane.stop()
        super().close()

    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """End the connection, which may finish what it is answering."""
        await self.lane.shutdown(timeout)
        await super().shutdown(timeout)

    def stop_reading(self) -> None:
        """Leave what comes where it comes from."""
        self._pause_transport_reading()

    def read_on(self) -> None:
        """Read it again."""
        self._resume_transport_reading()

    def _pause_transport_reading(self) -> None:
        super()._pause_transport_reading()
        if self.watch is None:
            self.watch = self._loop.call_later(_LOOK_S, self._look_after_client)

    def _resume_transport_reading(self) -> None:
        self._stop_watching()
        super()._resume_transport_reading()

    def _stop_watching(self) -> None:
        if self.watch is not None:
            self.watch.cancel()
            self.watch = None

    def _look_after_client(self) -> None:
        """End the connection of a client that has left: the event loop hears of that only where it reads."""
        self.watch = None
        if self.transport is None:
            return
        if _has_left(self.transport):
            self.transport.abort()
        else:
            self.watch = self._loop.call_later(_LOOK_S, self._look_after_client)

    def _process_keepalive(self) -> None:
        # aiohttp's timer runs on while it waits for a request, and does not know of the one that is answered here.
        if self.lane.is_answering:
            self._put_off_end()
        super()._process_keepalive()

    def _put_off_end(self) -> None:
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def begin_answer(self) -> None:
        """Count a request that is being answered."""
        self.busy += 1

    def end_answer(self) -> None:
        """Count it as answered."""
        self.busy -= 1
        self.idle_since = self._loop.time()
        self._put_off_end()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP, and what no handler caught, in the form of every other error."""
        if status < 500:
            error: RoutingError = BadCallError(f"this is not an HTTP request: {_first_line(message or str(exc))}")
        else:
            error = RoutingError("the router failed on this request; its log says why")
            if not self._has_left(exc):
                log.error("%s %s failed", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("part of the answer has been sent already")
        reply = error_reply(error, status=status)
        if request.path.startswith(MESSAGES_PATH):
            as_anthropic(reply)
        reply.force_close()
        return reply

    def _has_left(self, error: BaseException | None) -> bool:
        """Whether `error` only says that the client went away while it was being written to."""
        is_closed = self.transport is None or self.transport.is_closing()
        return isinstance(error, ConnectionResetError) and is_closed


class Connections(web.Server):
    """The server of one router."""

    def __init__(self, server: web.Server, gateway: Gateway) -> None:
        super().__init__(
            server.request_handler,
            request_factory=server.request_factory,
            handler_cancellation=server.handler_cancellation,
            **server._kwargs,
        )
        self._gateway = gateway
        self._descriptors = gateway.parts.descriptors
        self._swept_at = 0.0

    def __call__(self) -> web.RequestHandler:
        """Return the handler of a new connection."""
        idle_s = self._kwargs["keepalive_timeout"]
        if self._descriptors.is_short:
            idle_s = min(idle_s, SHORT_IDLE_S)
        return Connection(self, self._gateway, loop=self._loop, **self._kwargs | {"keepalive_timeout": idle_s})

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a client that has connected, or turn it away."""
        super().connection_made(handler, transport)
        self._descriptors.num_connections += 1
        if self._descriptors.is_short:
            self._close_idle()
        if self._descriptors.is_spent and not self._make_room(handler) and self._descriptors.is_exhausted:
            transport.write(_write_out(self._descriptors.refusal()))
            transport.close()

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count a connection as ended."""
        super().connection_lost(handler, exc)
        self._descriptors.num_connections -= 1

    def _close_idle(self) -> None:
        now = self._loop.time()
        if now - self._swept_at < _SWEEP_PAUSE_S:
            return
        self._swept_at = now
        for connection in self._find_idle(SHORT_IDLE_S):
            connection.force_close()

    def _make_room(self, new: web.RequestHandler) -> bool:
        """Close the oldest of the connections that are idle, but not the `new` one; return whether there was one."""
        # Of many that are taken at one go, all are new and none has been idle for a moment: then the first goes.
        idle = itertools.chain(self._find_idle(_LEAST_IDLE_S), self._find_idle(0.0))
        oldest = next((connection for connection in idle if connection is not new), None)
        if oldest is not None:
            oldest.force_close()
        return oldest is not None

    def _find_idle(self, seconds: float) -> Iterator[Connection]:
        """The connections that were idle for so long, in the order in which they were made."""
        for connection in self.connections:
            if isinstance(connection, Connection) and connection.is_idle(seconds):
                yield connection


class Runner(web.AppRunner):
    """Runs the router's application on `Connections`."""

    async def _make_server(self) -> web.Server:
        # aiohttp has no public way to give an application another server.
        server = await super()._make_server()
        return Connections(server, self.app[GATEWAY])


def make_runner(app: web.Application, *, idle_s: float, shutdown_timeout_s: float) -> Runner:
    """Return the runner of a router's application."""
    return Runner(
        app,
        handler_cancellation=True,  # else calls outlive the clients that leave
        access_log=None,
        shutdown_timeout=shutdown_timeout_s,
        keepalive_timeout=idle_s,
        auto_decompress=False,  # `bodies.py` says no to what is compressed
    )


def _write_out(error: RoutingError) -> bytes:
    """The whole answer, for a connection on which no request was read."""
    reply = error_reply(error)
    assert isinstance(reply.body, bytes)
    head = f"HTTP/1.1 {error.status} {reply.reason}\r\nContent-Length: {len(reply.body)}\r\nConnection: close\r\n"
    lines = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items())
    return f"{head}{lines}\r\n".encode() + reply.body


def _has_left(transport: asyncio.Transport) -> bool:
    """Whether the other end sends nothing more, however much of what it sent was not read yet."""
    asked = select.poll()
    asked.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
    return bool(asked.poll(0))


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    return " ".join(lines[:2])[:_MAX_REASON] or "it cannot be read"
