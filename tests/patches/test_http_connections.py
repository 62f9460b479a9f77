"""Connections of a uvicorn server that ask nothing, or only half, are closed; those in use are not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from sglang_patches.http import connections as http_connections

IDLE_S = 1.0
"""Much longer than from a connection to what is sent at once, on a busy machine, too."""
HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n"


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await asyncio.sleep(2.5 * IDLE_S)
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def _serving() -> AsyncIterator[int]:
    server = uvicorn.Server(uvicorn.Config(_app, port=0, lifespan="off", log_level="error", timeout_keep_alive=1))
    task = asyncio.create_task(server._serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@pytest.fixture
def _watched(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol in http_connections._protocols():
        monkeypatch.setattr(protocol, "connection_made", protocol.connection_made)
        monkeypatch.setattr(protocol, "prefillshare_idle_s", IDLE_S, raising=False)
        monkeypatch.delattr(protocol, "prefillshare_idle_s")
    http_connections.watch_connections(IDLE_S)


@pytest.mark.usefixtures("_watched")
def test_only_connections_without_a_request_end() -> None:
    async def run() -> None:
        async with _serving() as port, asyncio.timeout(120):
            for sent in (b"", HEAD + b"X-Half", HEAD + b"X: y\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(sent)
                said = await reader.read()  # to the end: the server closes
                assert said.endswith(b"ok") == sent.endswith(b"\r\n\r\n"), said
                writer.close()
                await writer.wait_closed()

    asyncio.run(run())


class _Clock(asyncio.SelectorEventLoop):
    """A loop whose time goes on when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def go_on(self, seconds: float) -> None:
        """Second by second, each until nothing is left to do."""
        for _ in range(round(seconds)):
            self.now += 1.0
            for _ in range(20):
                self.call_soon(self.stop)
                self.run_forever()


class _Transport(asyncio.Transport):
    """The server's end of a connection."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.is_closed = False

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed


KEEP_ALIVE_S = 75
WATCHED_S = 60
REQUEST = HEAD + b"\r\n"


@pytest.fixture(params=http_connections._protocols())
def connection(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A connection that was just made to a server whose answers take as many seconds as the path says."""
    protocol_class = request.param
    monkeypatch.setattr(protocol_class, "connection_made", protocol_class.connection_made)
    monkeypatch.delattr(protocol_class, "prefillshare_idle_s", raising=False)
    http_connections.watch_connections(WATCHED_S)
    loop = _Clock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        answered = loop.create_future()
        loop.call_later(int(scope["path"][1:]), answered.set_result, None)
        await answered
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    config = uvicorn.Config(app, lifespan="off", log_level="error", timeout_keep_alive=KEEP_ALIVE_S)
    protocol = protocol_class(config, ServerState(), {}, _loop=loop)
    protocol.connection_made(_Transport())
    yield protocol
    loop.close()


def _ask(protocol: Any, seconds: int) -> None:
    num_answers = protocol.transport.written.count(b"ok")
    protocol.data_received(REQUEST.replace(b"GET /", b"GET /%d" % seconds))
    protocol.loop.go_on(seconds + 1)
    assert protocol.transport.written.count(b"ok") == num_answers + 1


@pytest.mark.parametrize("asked_at", [1, WATCHED_S // 2, WATCHED_S - 1])
@pytest.mark.parametrize("seconds", [1, WATCHED_S - 1, 3 * WATCHED_S])
def test_a_client_that_pauses_has_the_whole_keep_alive_behind_each_answer(
    connection: Any, asked_at: int, seconds: int
) -> None:
    connection.loop.go_on(asked_at)
    for _ in range(2):
        _ask(connection, seconds)
        connection.loop.go_on(KEEP_ALIVE_S - 3)
        assert not connection.transport.is_closed
    connection.loop.go_on(3)
    assert connection.transport.is_closed


def test_half_a_request_behind_an_answer_has_its_time_and_no_more(connection: Any) -> None:
    _ask(connection, WATCHED_S - 2)
    connection.data_received(HEAD)  # just before the first look
    connection.loop.go_on(WATCHED_S - 1)
    assert not connection.transport.is_closed
    connection.loop.go_on(WATCHED_S + 1)
    assert connection.transport.is_closed
