"""What the router tells of a deployment, over real sockets, with small workers behind it."""

import asyncio
from typing import Any

import pytest

from prefillshare.routing.workers import reports
from tests.routing.workers import Deployment, deployment, in_loop, until
from tests.support.monitoring import module_of, scraped, worker_of
from tests.support.otlp import otlp_receiver
from tests.support.state_document import mistakes_in

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def state(running: Deployment) -> dict[str, Any]:
    async with running.http.get(f"{running.url}/deployment/state") as reply:
        assert reply.status == 200, await reply.text()
        found: dict[str, Any] = await reply.json()
        assert mistakes_in(found) == []
        return found


async def ended(running: Deployment, module: str, num_requests: int) -> dict[str, Any]:
    """The state when so many requests of `module` have ended."""
    await until(lambda: running.parts.observer.stats_of(module).requests == num_requests)
    return await state(running)


@in_loop
async def test_calls_are_counted_by_module_and_outcome() -> None:
    async with deployment(decode=("math", "code")) as running:
        running["p0"].hits = {"own_hit_tokens": 3, "cross_hit_tokens": 5}
        for stream in (False, True):
            await (await running.chat("math", stream=stream)).read()
        for status in (400, 501):
            running["code-1"].status = status
            await (await running.chat("code")).read()
        await ended(running, "code", 2)
        told = await ended(running, "math", 2)
        math, code = module_of(told, "math"), module_of(told, "code")
        assert [math[key] for key in ("requests", "errors", "aborted", "running", "queued")] == [2, 0, 0, 0, 0]
        assert [math[key] for key in ("prompt_tokens", "own_hit_tokens", "cross_hit_tokens")] == [80, 6, 10]
        assert [code[key] for key in ("requests", "errors", "refused")] == [2, 1, 1]
        assert [math["latency"][key]["count"] for key in ("e2e", "queue", "ttft")] == [2, 2, 0]
        assert [math["kind"], told["topology"], told["prefill_module"]] == ["full", "disaggregated", "base"]
        assert {event["kind"] for event in told["events"]} == {"worker_joined", "worker_up", "error", "refusal"}


@in_loop
async def test_a_client_that_leaves_and_a_full_queue() -> None:
    async with deployment(max_running_per_worker=1, max_queued_per_module=0) as running:
        running["math-0"].pause_s = 60.0
        call = asyncio.create_task(running.chat())
        await until(lambda: running["math-0"].running)
        told = await state(running)
        assert module_of(told, "math")["running"] == 1
        assert worker_of(told, "router")["running"] == 1
        assert (await running.chat()).status == 429
        call.cancel()
        told = await ended(running, "math", 2)
        assert [module_of(told, "math")[key] for key in ("errors", "refused", "aborted", "running")] == [0, 1, 1, 0]
        assert told["refusals"] == 1
        assert [event["subject"] for event in told["events"] if event["kind"] == "refusal"] == ["math"]


@in_loop
async def test_a_call_in_the_queue_is_queued_and_not_running() -> None:
    async with deployment(max_running_per_worker=1) as running:
        gate = running["math-0"].gate = asyncio.Semaphore(0)
        calls = [asyncio.create_task(running.chat(stream=True)) for _ in range(2)]
        await until(lambda: running.parts.admission.num_queued("math") == 1)
        told = module_of(await state(running), "math")
        assert (told["running"], told["queued"]) == (1, 1)
        await asyncio.sleep(0.2)
        running["math-0"].gate = None
        gate.release()
        for call in calls:
            await (await call).read()
        assert module_of(await ended(running, "math", 2), "math")["latency"]["queue"]["sum"] > 0.1


@in_loop
async def test_the_prefill_worker_hears_for_whom_it_works_and_the_decode_worker_does_not() -> None:
    async with deployment() as running:
        await (await running.chat()).read()
        assert running["p0"].headers[0]["X-PrefillShare-Module"] == "math"
        assert "X-PrefillShare-Module" not in running["math-0"].headers[0]


@pytest.mark.parametrize("fault", ["slow", "gone", "silent"])
def test_a_worker_that_does_not_answer_blocks_no_scrape(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "ASK_TIMEOUT_S", 0.2)

    @in_loop
    async def scrape() -> None:
        async with deployment() as running:
            if fault == "slow":
                running["math-0"].state_s = 3600.0
            if fault == "gone":
                await running["math-0"].stop()
            async with running.http.get(f"{running.url}/metrics") as reply:
                assert reply.status == 200
                samples = scraped(await reply.text())
            assert ("prefillshare_requests_total", (("module", "math"),)) in samples
            assert worker_of(await state(running), "math-0")["kv"] is None

    scrape()


@in_loop
async def test_both_paths_want_the_key() -> None:
    async with deployment(settings={"api_key": "secret"}) as running:
        for path in ("/metrics", "/deployment/state"):
            async with running.http.get(running.url + path) as reply:
                assert reply.status == 401
            async with running.http.get(running.url + path, headers={"Authorization": "Bearer secret"}) as reply:
                assert reply.status == 200


@in_loop
async def test_a_session_that_moves_is_told() -> None:
    async with deployment(prefill=2) as running:
        reply = await running.chat(user="someone")
        first = reply.headers["X-Prefill-Worker"]
        await running[first].stop()
        await until(lambda: running.parts.pool.get(first).state == "down")
        assert (await running.chat(user="someone")).headers["X-Prefill-Worker"] != first
        told = await ended(running, "math", 2)
        assert told["repins"] == 1
        assert told["sessions"]["items"][0]["repins"] == 1
        assert {"repin", "worker_down"} <= {event["kind"] for event in told["events"]}


@in_loop
async def test_legs_carry_the_routers_span_in_the_clients_trace() -> None:
    with otlp_receiver() as receiver:
        async with deployment(settings={"otlp_endpoint": receiver.endpoint}) as running:
            for headers in ({}, {"traceparent": TRACEPARENT}):
                body = {"model": "math", "messages": [{"role": "user", "content": "hi"}]}
                async with running.http.post(f"{running.url}/v1/chat/completions", json=body, headers=headers) as reply:
                    assert reply.status == 200
            sent = [[head["traceparent"].split("-") for head in running[name].headers] for name in ("p0", "math-0")]
        spans = {span.span_id: span for span in receiver.spans}
    assert sent[0] == sent[1]
    fresh, given = (spans[parent] for _, _, parent, _ in sent[0])
    assert (fresh.parent_id, given.parent_id) == ("", "b7ad6b7169203331")
    assert given.trace_id == sent[0][1][1] == "0af7651916cd43dd8448eb211c80319c"
    assert given.attributes["prefillshare.prefill_worker"] == "p0"


@in_loop
async def test_a_receiver_that_is_not_there_costs_no_call() -> None:
    async with deployment(settings={"otlp_endpoint": "http://127.0.0.1:9"}) as running:
        assert (await running.chat()).status == 200
