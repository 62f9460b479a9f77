"""Calls that a router gets before it has heard of its workers: they wait, and not for long."""

import asyncio
from dataclasses import asdict
from typing import Any

from tests.routing.routers import session_of, two_routers
from tests.routing.workers import Deployment, SmallWorker, deployment, in_loop, until

KEYS = {"admin_key": "a"}
SETTINGS: dict[str, Any] = {**KEYS, "modules": ("math",)}
LONG_S = 600.0
"""Longer than any test may take: what ends before it has not waited for it."""


async def announce(running: Deployment, worker: SmallWorker) -> None:
    url, headers = f"{running.url}/workers/{worker.id}", {"Authorization": "Bearer a"}
    async with running.http.put(url, json=asdict(worker.spec), headers=headers) as reply:
        assert reply.status == 201


@in_loop
async def test_calls_wait_for_workers_that_announce_themselves() -> None:
    async with deployment(decode=(), settings=SETTINGS, start_hold_s=LONG_S) as running:
        calls = [asyncio.create_task(running.chat()) for _ in range(3)]
        await until(lambda: running.parts.admission.num_queued("math") == len(calls))
        worker = SmallWorker("math-9", "decode", running["p0"].rooms, module="math")
        await worker.start()
        try:
            await announce(running, worker)
            assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * len(calls)
        finally:
            await worker.stop()


@in_loop
async def test_a_worker_that_the_router_knows_and_has_not_reached_yet_is_waited_for() -> None:
    async with deployment(settings=SETTINGS, start_hold_s=LONG_S) as running:
        running.parts.pool.get("math-0").set_state("starting")
        call = asyncio.create_task(running.chat())
        assert (await call).status == 200


@in_loop
async def test_calls_that_waited_in_vain_hear_so_when_the_time_is_over() -> None:
    async with deployment(decode=(), settings=SETTINGS, start_hold_s=1.0) as running:
        reply = await running.chat()
        assert (reply.status, reply.headers["Retry-After"]) == (503, "2")
        assert "none has joined" in await reply.text()


@in_loop
async def test_the_time_is_over_when_its_timer_says_so() -> None:
    """Which may be a moment before another clock does: nothing would ask a second time."""
    async with deployment(decode=(), settings=SETTINGS, start_hold_s=LONG_S, queue_timeout_s=LONG_S) as running:
        call = asyncio.create_task(running.chat())
        await until(lambda: running.parts.admission.num_queued("math") == 1)
        running.parts.admission.end_start_hold()
        assert (await call).status == 503
        assert (await running.chat()).status == 503


@in_loop
async def test_a_worker_that_was_found_down_is_not_waited_for() -> None:
    async with deployment(settings=SETTINGS, start_hold_s=LONG_S) as running:
        await running["math-0"].stop()
        await until(lambda: running.parts.pool.get("math-0").state == "down")
        assert (await running.chat()).status == 503


@in_loop
async def test_nobody_is_waited_for_where_nobody_can_join() -> None:
    async with deployment(decode=(), settings={"modules": ("math",)}, start_hold_s=LONG_S) as running:
        assert (await running.chat()).status == 503


@in_loop
async def test_a_router_without_workers_passes_calls_on_to_one_that_has_them() -> None:
    async with two_routers(settings={"modules": ("math",)}, start_hold_s=LONG_S) as (first, second):
        for worker_id in first.workers:
            await first.gateway.leave(worker_id)
        reply = await first.chat(session_id=session_of(first.url, second.url))
        assert reply.status == 200
        assert first.gateway.peers.num_forwarded == 1
        assert second.gateway.proxy.counters.calls == 1
