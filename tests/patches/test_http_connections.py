"""Connections of a uvicorn server that ask nothing, or only half, are closed; those in use are not."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import uvicorn

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
    server = uvicorn.Server(uvicorn.Config(_app, port=0, lifespan="off", log_level="error", timeout_keep_alive=60))
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
