"""One of two router processes is killed under load and started again: only what it was streaming is lost."""

import asyncio
import contextlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from prefillshare.serving.machine.ports import free_port
from tests.routing.routers import ADMIN_KEY, session_of
from tests.routing.workers import BASE, Rooms, SmallWorker, closing_session, in_loop


@dataclass(kw_only=True)
class Routers:
    """Two router processes before the same small workers."""

    folder: Path
    workers: list[SmallWorker]
    http: aiohttp.ClientSession
    ports: list[int] = field(default_factory=lambda: [free_port(), free_port()])
    processes: dict[int, asyncio.subprocess.Process] = field(default_factory=dict)

    @property
    def urls(self) -> list[str]:
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    async def start(self, number: int) -> None:
        file = self.folder / f"router-{number}.json"
        file.touch(mode=0o600)
        specs = [{name: getattr(worker.spec, name) for name in worker.spec.__slots__} for worker in self.workers]
        told = {"base_model": BASE, "port": self.ports[number], "peers": self.urls, "admin_key": ADMIN_KEY}
        file.write_text(json.dumps({**told, "workers": specs, "router": {"drain_timeout_s": 3.0}}))
        self.processes[number] = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "prefillshare.routing", str(file), stderr=asyncio.subprocess.DEVNULL
        )

    async def state(self, number: int) -> dict[str, Any]:
        async with self.http.get(f"{self.urls[number]}/router/state") as reply:
            return await reply.json()

    async def num_calls(self, number: int) -> int:
        return (await self.state(number))["counters"]["calls"]

    async def sees(self, number: int, state: str) -> None:
        """Wait until a router has all workers, and the other router in this state."""
        async with asyncio.timeout(120):
            while True:
                with contextlib.suppress(aiohttp.ClientError):
                    found = await self.state(number)
                    ups = {worker["state"] for worker in found["workers"]}
                    if ups == {"up"} and found["routers"]["others"][0]["state"] == state:
                        return
                await asyncio.sleep(0.05)

    def ask(self, number: int, session: str, **fields: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Call one of them."""
        body = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "user": session, **fields}
        return self.http.post(f"{self.urls[number]}/v1/chat/completions", json=body)

    async def chat(self, number: int, session: str) -> tuple[int, bytes]:
        """Return status and body of the whole answer."""
        async with self.ask(number, session) as reply:
            return reply.status, await reply.read()


@contextlib.asynccontextmanager
async def _two_processes(folder: Path) -> AsyncIterator[Routers]:
    rooms = Rooms()
    workers = [SmallWorker("p0", "prefill", rooms), SmallWorker("d0", "decode", rooms, module="math")]
    for worker in workers:
        worker.pause_s = 0.02
        await worker.start()
    async with closing_session() as http:
        running = Routers(folder=folder, workers=workers, http=http)
        try:
            for number in (0, 1):
                await running.start(number)
            for number in (0, 1):
                await running.sees(number, "up")
            yield running
        finally:
            for process in running.processes.values():
                if process.returncode is None:
                    process.kill()
                await process.wait()
            for worker in workers:
                await worker.stop()


@in_loop
async def test_a_killed_router_costs_its_open_streams_and_its_sessions_come_back(tmp_path: Path) -> None:
    async with _two_processes(tmp_path) as running:
        url, lost_url = running.urls
        mine, its = session_of(url, lost_url), session_of(lost_url, url)
        answers: list[tuple[int, bytes]] = []
        is_over = False

        async def keep_calling(session: str) -> None:
            while not is_over:
                answers.append(await running.chat(0, session))

        clients = [asyncio.create_task(keep_calling(session)) for session in (mine, its) * 4]
        # The other router is up before this one hears that it has workers, too.
        while await running.num_calls(1) == 0:
            await asyncio.sleep(0.05)
        running.workers[1].gate = asyncio.Semaphore(1)  # of a stream, the first piece
        async with running.ask(0, its, stream=True) as stream:
            assert await stream.content.readany() == b"data: one\n\n"
            running.processes[1].kill()
            content = await stream.read()
        assert b"broke off" in content
        assert b"[DONE]" not in content
        running.workers[1].gate = None
        await running.sees(0, "down")
        before = len(answers)
        while len(answers) < before + 20:
            await asyncio.sleep(0.02)

        await running.processes[1].wait()
        await running.start(1)
        await running.sees(0, "up")
        await running.sees(1, "up")
        while await running.num_calls(1) == 0:  # its sessions come back to it, or the test's time ends
            await asyncio.sleep(0.05)
        is_over = True
        await asyncio.gather(*clients)
        whole = json.dumps({"model": "math", "text": "one two three"}).encode()
        assert {status for status, _ in answers} == {200}
        assert {content for _, content in answers} == {whole}
