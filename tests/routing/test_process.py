"""The router as a process: starting, stopping, and what it says when it cannot start."""

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest

from prefillshare.serving.machine.ports import free_port
from tests.routing.workers import BASE, Rooms, SmallWorker, closing_session, in_loop, until


def _settings(tmp_path: Path, **content: object) -> Path:
    file = tmp_path / "router.json"
    file.touch(mode=0o600)
    file.write_text(json.dumps({"base_model": BASE, **content}))
    return file


async def _start(file: Path, max_open_files: int | None = None) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "prefillshare.routing", str(file)]
    if max_open_files is not None:
        command = ["sh", "-c", f'ulimit -n {max_open_files}; exec "$@"', "sh", *command]
    return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)


@contextlib.asynccontextmanager
async def running_router(
    tmp_path: Path, settings: Mapping[str, object] = MappingProxyType({}), max_open_files: int | None = None
) -> AsyncIterator[tuple[asyncio.subprocess.Process, str, SmallWorker]]:
    """A router as a process, before two small workers: the process, its address and the decode worker."""
    rooms = Rooms()
    workers = [SmallWorker("p0", "prefill", rooms), SmallWorker("d0", "decode", rooms, module="math")]
    for worker in workers:
        await worker.start()
    port = free_port()
    specs = [{name: getattr(worker.spec, name) for name in worker.spec.__slots__} for worker in workers]
    file = _settings(tmp_path, port=port, workers=specs, router={"drain_timeout_s": 5.0, **settings})
    process = await _start(file, max_open_files)
    url = f"http://127.0.0.1:{port}"
    try:
        await _has_status(url, "ok")
        yield process, url, workers[1]
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
        for worker in workers:
            await worker.stop()


async def _has_status(url: str, status: str) -> None:
    """Wait until the router says so of itself."""
    async with closing_session() as http, asyncio.timeout(120):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with http.get(f"{url}/health") as reply:
                    if (await reply.json())["status"] == status:
                        return
            await asyncio.sleep(0.05)


PATIENT = {"drain_timeout_s": 600.0}
"""It ends sooner than the test's limit only for the reason that is tested."""
CHAT = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "stream": True}


@in_loop
async def test_a_signal_lets_running_calls_finish_and_takes_no_others(tmp_path: Path) -> None:
    async with running_router(tmp_path, PATIENT) as (process, url, worker), closing_session() as http:
        gate = worker.gate = asyncio.Semaphore(1)
        reply = await http.post(f"{url}/v1/chat/completions", json=CHAT)
        process.send_signal(signal.SIGTERM)
        await _has_status(url, "stopping")
        async with http.post(f"{url}/v1/chat/completions", json=CHAT) as refused:
            assert refused.status == 503
            assert "stopping" in await refused.text()
        for _ in worker.pieces:
            gate.release()
        assert b"[DONE]" in await reply.read()
        assert await process.wait() == 0


@in_loop
async def test_a_second_signal_ends_it_and_the_workers_are_told(tmp_path: Path) -> None:
    async with running_router(tmp_path, PATIENT) as (process, url, worker), closing_session() as http:
        worker.pause_s = 30.0
        await http.post(f"{url}/v1/chat/completions", json=CHAT)
        process.send_signal(signal.SIGTERM)
        await _has_status(url, "stopping")
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        await until(lambda: worker.aborted)


@in_loop
async def test_a_killed_router_leaves_no_call_running(tmp_path: Path) -> None:
    async with running_router(tmp_path) as (process, url, worker), closing_session() as http:
        worker.pause_s = 30.0
        await http.post(f"{url}/v1/chat/completions", json=CHAT)
        process.kill()
        await until(lambda: worker.cut_off)


@pytest.mark.parametrize(("change", "reason"), [({"port": -1}, "port is -1"), ({"policy": 1}, "unknown key 'policy'")])
@in_loop
async def test_settings_that_cannot_be_used_are_named(tmp_path: Path, change: dict[str, int], reason: str) -> None:
    process = await _start(_settings(tmp_path, **change))
    _, said = await process.communicate()
    assert process.returncode == 2
    assert reason in said.decode()
    assert "Traceback" not in said.decode()


@in_loop
async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = await _start(_settings(tmp_path, port=port))
        _, said = await process.communicate()
    assert process.returncode == 2
    assert f"127.0.0.1:{port} cannot be used" in said.decode()
