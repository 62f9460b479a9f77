"""Workers that fail, stall, die and come back."""

import asyncio
import contextlib
import socket
from collections.abc import Mapping

import aiohttp
import pytest

from prefillshare.routing.errors import ShortageError
from prefillshare.routing.workers.answer import Answer
from prefillshare.routing.workers.leg import Leg
from tests.routing.workers import Deployment, deployment, in_loop, until


async def _events(reply: aiohttp.ClientResponse) -> list[bytes]:
    return [event for event in (await reply.read()).split(b"\n\n") if event]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("failing", ["p0", "math-0"])
@pytest.mark.parametrize("status", [500, 503])
@in_loop
async def test_a_call_that_failed_is_answered_by_the_other_worker(failing: str, stream: bool, status: int) -> None:
    async with deployment(prefill=2, decode=("math", "math"), policy="round_robin") as running:
        running[failing].status = status
        for _ in range(4):
            reply = await running.chat(stream=stream)
            assert reply.status == 200
            await reply.read()
        assert (await running.state())["counters"]["failed"] == 0
        assert running[failing].bodies


@in_loop
async def test_the_last_failure_is_told_when_no_try_is_left() -> None:
    async with deployment(max_retries=1) as running:
        running["math-0"].status = 500
        reply = await running.chat()
        assert reply.status == 502
        assert "decode worker math-0 answered 500: math-0 says 500; 2 tries failed" in await reply.text()
        await until(lambda: running["p0"].running == 0)


@in_loop
async def test_a_refusal_that_makes_the_handoff_fail_is_what_the_client_hears() -> None:
    async with deployment() as running:
        running["p0"].status = 500
        running["math-0"].status, running["math-0"].refusal_s = 400, 0.2
        reply = await running.chat()
        assert (reply.status, (await reply.json())["error"]["message"]) == (400, "math-0 says 400")
        assert (await running.state())["counters"]["retries"] == 0


@in_loop
async def test_a_call_that_may_have_killed_two_workers_meets_no_third() -> None:
    async with deployment(decode=("math",) * 4, max_retries=3) as running:
        for name, worker in running.workers.items():
            worker.drops_calls = name != "p0"
        reply = await running.chat()
        assert reply.status == 502
        assert sum(len(worker.bodies) for name, worker in running.workers.items() if name != "p0") == 2


@in_loop
async def test_a_failed_prefill_leg_ends_the_decode_leg_at_once() -> None:
    async with deployment(max_retries=0) as running:
        running["p0"].status = 503
        # The decode worker alone would never answer.
        assert (await running.chat(stream=True)).status == 502
        await until(lambda: running["math-0"].cut_off and running["math-0"].aborted)


@in_loop
async def test_a_connection_that_takes_too_long_is_tried_again_and_the_worker_stays_up() -> None:
    # Try follows try, a second each, until the worker is back: that takes its time where the machine is busy.
    patience = {"max_retries": 30, "breaker_failures": 32}
    async with deployment(connect_timeout_s=1.0, health_interval_s=60.0, health_failures=3, **patience) as running:
        decode = running["math-0"]
        await decode.stop()
        with contextlib.ExitStack() as stack:
            busy = socket.create_server(("127.0.0.1", decode.port), backlog=0)
            for _ in range(2):  # fill its queue: the system drops what comes then
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(busy.getsockname())
            call = asyncio.create_task(running.chat())
            await until(lambda: running.parts.pool.get("math-0").num_failed > 0)
            assert running.parts.pool.get("math-0").is_available
            # The same socket: a port where nobody listens meanwhile would refuse, which says that the worker is gone.
            await decode.start(busy)
            assert (await call).status == 200


@in_loop
async def test_a_fault_of_the_router_in_the_prefill_leg_ends_the_call_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with deployment() as running:

        def learn(*_: object) -> None:
            raise RuntimeError("a fault of the router")

        monkeypatch.setattr(running.parts.chooser, "learn", learn)
        running["math-0"].gate = asyncio.Semaphore(0)  # no answer that would come first
        async with asyncio.timeout(60):
            assert (await running.chat()).status == 500
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))
        await until(lambda: running["math-0"].aborted)


@in_loop
async def test_a_decode_leg_that_fails_at_once_leaves_no_place_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    async with deployment() as running:
        send = running.parts.client.send

        async def fall_short(leg: Leg, headers: Mapping[str, str], *, is_stream: bool) -> Answer:
            # As where there is no descriptor for a connection to an address: nothing was waited for.
            if leg.worker.id == "math-0":
                raise ShortageError("no descriptor is left")
            return await send(leg, headers, is_stream=is_stream)

        monkeypatch.setattr(running.parts.client, "send", fall_short)
        assert (await running.chat()).status == 503
        assert [(worker.id, worker.num_running) for worker in running.parts.pool] == [("p0", 0), ("math-0", 0)]
        assert not running["p0"].bodies


@in_loop
async def test_a_dead_module_is_named_and_the_others_go_on() -> None:
    async with deployment(decode=("math", "code"), queue_timeout_s=3600.0) as running:
        await running["code-1"].stop()
        reply = await running.chat("code")
        assert reply.status == 503
        assert "model 'code' cannot answer now" in (await reply.json())["error"]["message"]
        assert reply.headers["Retry-After"]
        assert (await running.chat("math")).status == 200
        async with running.http.get(f"{running.url}/health") as health:
            assert (health.status, await health.json()) == (200, {"status": "degraded", "missing": ["code"]})


@in_loop
async def test_without_a_prefill_worker_nothing_is_healthy() -> None:
    async with deployment() as running:
        await running["p0"].stop()
        await until(lambda: running.parts.pool.get("p0").state == "down")
        async with running.http.get(f"{running.url}/health") as health:
            assert (health.status, (await health.json())["missing"]) == (503, ["prefill"])
        reply = await running.chat()
        assert reply.status == 503
        assert "no prefill worker is up (p0 is down)" in await reply.text()


@in_loop
async def test_a_worker_that_comes_back_is_used_again_and_holds_nothing() -> None:
    async with deployment() as running:
        await running.chat()
        await until(lambda: running.parts.chooser.index.num_nodes)
        await running["math-0"].stop()
        assert (await running.chat()).status == 503
        await running["math-0"].start()
        await running.is_up("math-0")
        held = running.parts.chooser.index.match(b"\x1e" * 3 + b"chat")
        assert "math-0" not in held
        assert (await running.chat()).status == 200


@in_loop
async def test_an_unhealthy_worker_gets_no_calls() -> None:
    async with deployment(decode=("math", "math")) as running:
        running["math-0"].is_healthy = False
        await until(lambda: running.parts.pool.get("math-0").state == "down")
        for _ in range(3):
            assert (await running.chat()).headers["X-Decode-Worker"] == "math-1"
        async with running.http.get(f"{running.url}/workers") as reply:
            states = {worker["id"]: worker for worker in (await reply.json())["workers"]}
        assert "503" in states["math-0"]["reason"]


@in_loop
async def test_a_worker_that_serves_something_else_gets_no_calls() -> None:
    async with deployment(decode=("math",)) as running:
        running["math-0"].module = "other"
        running.parts.pool.get("math-0").set_state("down")
        await until(lambda: "instead of 'math'" in running.parts.pool.get("math-0").reason)
        assert (await running.chat()).status == 503


async def _trip(running: Deployment, worker_id: str) -> None:
    running[worker_id].status = 503
    for _ in range(6):
        await (await running.chat()).read()


@in_loop
async def test_a_worker_whose_calls_fail_is_paused_and_tried_again() -> None:
    async with deployment(prefill=2, policy="round_robin", breaker_open_s=0.5) as running:
        await _trip(running, "p0")
        breaker = running.parts.pool.get("p0").breaker
        assert breaker.state == "open"
        num_bodies = len(running["p0"].bodies)
        assert num_bodies == 3
        for _ in range(4):
            assert (await running.chat()).headers["X-Prefill-Worker"] == "p1"
        running["p0"].status = 200
        await until(lambda: breaker.state == "half_open")
        for _ in range(2):
            assert (await running.chat()).status == 200
        assert breaker.state == "closed"


@in_loop
async def test_answers_of_500_to_single_calls_do_not_take_a_worker_away() -> None:
    async with deployment(max_retries=0) as running:
        running["math-0"].status = 500
        for _ in range(5):
            assert (await running.chat()).status == 502
        running["math-0"].status = 200
        assert (await running.chat()).status == 200


@in_loop
async def test_a_stream_that_breaks_between_events_ends_with_an_error_event() -> None:
    async with deployment(decode=("math", "math")) as running:
        running["math-0"].break_after = running["math-1"].break_after = 2
        running["math-0"].pause_s = running["math-1"].pause_s = 0.05
        reply = await running.chat(stream=True)
        events = await _events(reply)
        assert events[:2] == [b"data: one", b"data: two"]
        assert b"broke off" in events[2]
        assert len(events) == 3
        counters = (await running.state())["counters"]
        assert (counters["retries"], counters["failed"]) == (0, 1)
        assert len(running["math-0"].bodies) + len(running["math-1"].bodies) == 1


@in_loop
async def test_a_stream_that_breaks_within_an_event_is_cut() -> None:
    async with deployment() as running:
        worker = running["math-0"]
        worker.pieces, worker.break_after, worker.pause_s = ["one", "two"], 1, 0.05
        worker.terminator = "\n"
        reply = await running.chat(stream=True)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reply.read()


@pytest.mark.parametrize("slow", ["prefill", "decode"])
@in_loop
async def test_a_call_that_gets_no_first_byte_ends_in_time_and_says_whose_fault_it_is(slow: str) -> None:
    async with deployment(first_byte_timeout_s=3.0) as running:  # the other one has answered by then
        if slow == "prefill":
            running["p0"].prefill_s = 30.0
        else:
            running["math-0"].first_byte_s = 30.0
        reply = await running.chat(stream=True)
        assert reply.status == 504
        assert f"{slow} worker" in (await reply.json())["error"]["message"]
        await until(lambda: running["math-0"].cut_off)
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))


@in_loop
async def test_a_whole_call_has_a_limit_too() -> None:
    async with deployment(total_timeout_s=0.5) as running:
        running["math-0"].pause_s = 3600.0
        assert (await running.chat()).status == 504


@in_loop
async def test_a_stream_that_stops_ends_with_an_error_event() -> None:
    async with deployment(idle_timeout_s=0.3) as running:
        running["math-0"].pause_s = 30.0
        events = await _events(await running.chat(stream=True))
        assert events[0] == b"data: one"
        assert b"the answer stopped" in events[1]
        await until(lambda: running["math-0"].cut_off)


@in_loop
async def test_many_calls_while_workers_come_and_go_all_end() -> None:
    async with deployment(prefill=2, decode=("math", "math"), breaker_open_s=0.1) as running:
        for name in ("math-0", "math-1"):
            running[name].pause_s = 0.01

        async def disturb() -> None:
            for name in ("p0", "math-0", "p1", "math-1"):
                await running[name].stop()
                await until(lambda name=name: pool.get(name).state == "down")
                await running[name].start()
                await running.is_up(name)

        async def ask_again_and_again() -> None:
            while not disturbance.done() or len(statuses) < 100:
                reply = await running.chat(stream=len(statuses) % 2 == 0, text=f"question {len(statuses)}")
                await reply.read()
                statuses.append(reply.status)

        pool, statuses = running.parts.pool, list[int]()
        disturbance = asyncio.create_task(disturb())
        # A few clients, each with one call at a time: a worker that goes fails what it has, and the rest goes on.
        await asyncio.gather(disturbance, *(ask_again_and_again() for _ in range(6)))
        assert set(statuses) <= {200, 502, 503}
        assert statuses.count(200) > 0.6 * len(statuses)
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))
        assert running.gateway.proxy.num_running == 0
        assert all(worker.speed.pending_tokens < 1e-6 for worker in running.parts.pool)
