"""Bounded queues: order, limits, and what those hear who do not get in."""

import asyncio
import time

import pytest

from tests.routing.workers import Deployment, deployment, in_loop, until


def _close(running: Deployment) -> asyncio.Semaphore:
    """Let no stream of math-0 go on."""
    gate = running["math-0"].gate = asyncio.Semaphore(0)
    return gate


def _open(running: Deployment, gate: asyncio.Semaphore) -> None:
    running["math-0"].gate = None
    for _ in range(running["math-0"].running):  # those that wait already
        gate.release()


@in_loop
async def test_calls_over_the_limit_wait_and_then_run() -> None:
    async with deployment(max_running_per_worker=2) as running:
        running["math-0"].pause_s = 0.1
        gate = _close(running)
        calls = [asyncio.create_task(running.chat(stream=True)) for _ in range(6)]
        await until(lambda: running.parts.admission.num_queued("math") == 4)
        assert running["math-0"].running <= 2
        started = time.monotonic()
        _open(running, gate)
        for call in calls:
            reply = await call
            assert reply.status == 200
            assert b"[DONE]" in await reply.read()
        assert time.monotonic() - started > 0.8
        assert running.parts.admission.num_queued() == 0


@in_loop
async def test_calls_over_the_queue_are_told_when_to_come_back() -> None:
    async with deployment(max_running_per_worker=1, max_queued_per_module=1) as running:
        gate = _close(running)
        calls = [asyncio.create_task(running.chat(stream=True)) for _ in range(2)]
        await until(lambda: running.parts.admission.num_queued("math") == 1)
        reply = await running.chat()
        assert reply.status == 429
        assert 1 <= int(reply.headers["Retry-After"]) <= 60
        assert "1 calls wait for model 'math'" in (await reply.json())["error"]["message"]
        _open(running, gate)
        assert [(await call).status for call in calls] == [200, 200]
        assert (await running.state())["counters"]["refused"] == 1


@in_loop
async def test_one_modules_queue_does_not_hold_up_another() -> None:
    async with deployment(decode=("math", "code"), prefill=2, max_running_per_worker=1) as running:
        running["math-0"].gate = asyncio.Semaphore(0)
        slow = [asyncio.create_task(running.chat("math", stream=True)) for _ in range(2)]
        await until(lambda: running.parts.admission.num_queued("math") == 1)
        assert (await running.chat("code")).status == 200
        assert running.parts.admission.num_queued("math") == 1
        for call in slow:
            call.cancel()
        await asyncio.gather(*slow, return_exceptions=True)


@in_loop
async def test_waiting_has_an_end() -> None:
    async with deployment(max_running_per_worker=1, queue_timeout_s=0.2) as running:
        gate = _close(running)
        call = asyncio.create_task(running.chat(stream=True))
        await until(lambda: running["math-0"].running)
        reply = await running.chat()
        assert reply.status == 503
        assert "within 0.2 s" in await reply.text()
        _open(running, gate)
        assert (await call).status == 200


@in_loop
async def test_a_waiting_client_that_leaves_frees_its_place() -> None:
    async with deployment(max_running_per_worker=1) as running:
        gate = _close(running)
        first = asyncio.create_task(running.chat(stream=True))
        await until(lambda: running["math-0"].running)
        waiting = asyncio.create_task(running.chat())
        await until(lambda: running.parts.admission.num_queued() == 1)
        waiting.cancel()
        await until(lambda: running.parts.admission.num_queued() == 0)
        _open(running, gate)
        assert b"[DONE]" in await (await first).read()
        assert len(running["math-0"].bodies) == 1
        assert (await running.chat()).status == 200


@in_loop
async def test_those_who_wait_for_a_module_that_dies_are_told() -> None:
    async with deployment(max_running_per_worker=1, max_retries=1) as running:
        running["math-0"].pause_s = 3600.0
        calls = [asyncio.create_task(running.chat()) for _ in range(2)]
        await until(lambda: running.parts.admission.num_queued("math") == 1)
        await running["math-0"].stop()
        replies = [await call for call in calls]
        assert [reply.status for reply in replies] == [503, 503]
        assert "math-0 is down" in await replies[1].text()


@pytest.mark.parametrize("num_clients", [30])
@in_loop
async def test_nothing_is_lost_when_clients_come_and_leave_at_any_moment(num_clients: int) -> None:
    async with deployment(prefill=1, decode=("math", "math"), max_running_per_worker=2) as running:
        for name in ("math-0", "math-1"):
            running[name].pause_s = 0.01

        async def call(number: int) -> None:
            try:
                async with asyncio.timeout(0.01 * (1 + number % 9) if number % 2 else 60):
                    await (await running.chat(stream=bool(number % 3))).read()
            except TimeoutError:
                assert number % 2

        await asyncio.gather(*(call(number) for number in range(num_clients)))
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))
        assert running.parts.admission.num_queued() == 0
        assert (await running.chat()).status == 200
