"""A local server that plays a deployment, and misbehaves when told to."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
from aiohttp import web

from benchmarks.tui.deployment import PaperDeployment
from prefillshare.serving.machine.ports import free_port

KEY = "key"


class Deployment:
    """What the server does; tests change it while it runs."""

    def __init__(self) -> None:
        self.paper = PaperDeployment()
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.manner = "well"
        """well, hang, break, garbage, or a status such as 404."""
        self.num_calls = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One more second of the deployment, or something worse."""
        self.num_calls += 1
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.Response(status=401)
        if self.manner == "hang":
            await asyncio.sleep(3600)
        if self.manner == "break" and request.transport is not None:
            request.transport.close()
        if self.manner.isdigit():
            return web.Response(status=int(self.manner))
        if self.manner == "garbage":
            return web.Response(text="<html>")
        self.paper.step()
        return web.Response(body=orjson.dumps(self.paper.state()), content_type="application/json")


class Server:
    """Runs a deployment in a thread; can be stopped and started again at the same address."""

    def __init__(self, deployment: Deployment) -> None:
        self.deployment = deployment
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._runner: web.AppRunner | None = None

    def start(self) -> None:
        """Listen."""
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(120)

    def stop(self) -> None:
        """Listen no more and drop every connection."""
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(120)

    def close(self) -> None:
        """End the thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/deployment/state", self.deployment.answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.deployment.port).start()

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


@contextmanager
def served_deployment() -> Iterator[Server]:
    """The server, listening."""
    server = Server(Deployment())
    server.start()
    try:
        yield server
    finally:
        server.close()
