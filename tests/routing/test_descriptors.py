"""When descriptors run short: the router says no and recovers, and no worker is held to have failed."""

import asyncio
import contextlib
import json
import os
import resource
import time
from pathlib import Path

from prefillshare.routing.descriptors import Descriptors
from tests.routing.raw import answer_of, close, connect, error_of, send
from tests.routing.test_process import running_router
from tests.routing.workers import closing_session, deployment, in_loop, until

FAST = {"health_interval_s": 0.2, "health_failures": 1, "breaker_failures": 1}
IDLE_S = 4.0


def _num_open(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@in_loop
async def test_a_shortage_at_connecting_is_not_the_workers_fault(tmp_path: Path) -> None:
    async with running_router(tmp_path, FAST) as (process, url, _), closing_session() as http:
        limits = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        connections = [await connect(url) for _ in range(8)]
        await send(url, b"", head=b"GET /health")  # by now they are accepted
        try:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (_num_open(process.pid) + 1, limits[1]))
            answers = await asyncio.gather(*(send(url, connection=connection) for connection in connections))
            refusals = [error_of(answer) for status, answer in answers if status != 200]
            assert {error["code"] for error in refusals} == {"router_full"}
            assert "shortage of its own (Too many open files)" in refusals[0]["message"]
            # What must not happen can only be waited for: in this time each worker is to be probed five times.
            await asyncio.sleep(5 * FAST["health_interval_s"])
        finally:
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, limits)
        async with http.get(f"{url}/workers") as reply:
            workers = (await reply.json())["workers"]
        assert [(worker["state"], worker["breaker"], worker["failed"]) for worker in workers] == [
            ("up", "closed", 0)
        ] * 2
        async with http.get(f"{url}/deployment/state") as reply:
            events = (await reply.json())["events"]
        assert {event["kind"] for event in events} == {"worker_joined", "worker_up", "error"}
        assert (await send(url))[0] == 200


@in_loop
async def test_beyond_the_limit_new_clients_are_told_no_and_health_answers(tmp_path: Path) -> None:
    settings = FAST | {"client_idle_timeout_s": IDLE_S}
    async with running_router(tmp_path, settings, max_open_files=160) as (process, url, _):
        started = time.monotonic()
        idle = [await connect(url) for _ in range(130)]
        refusals = []
        async with asyncio.timeout(120):
            while (answered := await send(url))[0] != 200:
                refusals.append(answered)
                assert (await send(url, b"", head=b"GET /health"))[0] == 200
                await asyncio.sleep(0.1)
        # There is room again once the idle ones are closed, and no sooner. A busy machine may need as long for opening
        # them: then nobody is refused, and that much time has passed.
        assert time.monotonic() - started >= IDLE_S
        for status, answer in refusals:
            assert (status, error_of(answer)["code"]) == (503, "router_full")
            assert "160 open files" in error_of(answer)["message"]
        for _, writer in idle:
            await close(writer)
        process.terminate()
        _, log = await process.communicate()
        assert log.count(b"the router has no room") == bool(refusals)
        assert b"160 open files allow" in log


@in_loop
async def test_half_sent_requests_end() -> None:
    async with deployment(idle_s=0.3, body_timeout_s=0.3) as running:
        started = time.monotonic()
        reader, writer = await connect(running.url)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nX-Half")
        assert await reader.read() == b""
        await close(writer)
        reader, writer = await connect(running.url)
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(head + b'Content-Length: 999\r\n\r\n{"model":')
        status, answer = answer_of(await reader.readuntil(b"again"))
        assert (status, b"did not arrive within 0.3 s" in answer) == (408, True)
        await close(writer)
        assert time.monotonic() - started < 60
        assert running.parts.descriptors.num_calls == 0


@in_loop
async def test_connections_and_calls_are_given_back() -> None:
    async with deployment() as running:
        descriptors = running.parts.descriptors
        running["math-0"].pause_s = 1.0
        calls = [asyncio.create_task(send(running.url)) for _ in range(5)]
        await until(lambda: descriptors.num_calls == 5)
        assert descriptors.num_connections >= 5
        await asyncio.gather(*calls)
        call = asyncio.create_task(running.chat())
        await until(lambda: descriptors.num_calls == 1)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await call
        await until(lambda: descriptors.num_calls == 0)
        await running.http.close()
        await until(lambda: descriptors.num_connections == 0)


def test_the_parts_of_a_limit_add_up() -> None:
    for limit in (64, 256, 1024, 4096, 1 << 20, None):
        descriptors = Descriptors(limit, num_workers=5)
        assert descriptors.spare > 0
        assert 0 < descriptors.available < descriptors.limit - descriptors.spare
    descriptors = Descriptors(1024, num_workers=5)
    assert 200 < descriptors.max_calls < 341
    assert json.dumps(str(descriptors.refusal()))
