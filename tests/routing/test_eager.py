"""What the router does after an answer: it asks, has the KV made, pushes it on, and gives way to every call."""

import asyncio
from typing import Any

import pytest

from prefillshare.contract import EAGER_HEADER, EAGER_RID_PREFIX, MODULE_HEADER, NO_BOOTSTRAP_HOST
from prefillshare.routing.eager import answers
from tests.routing.agents import IDS, MODULES, agents, ask, decode_worker, jobs, settled, take_turns, waiting
from tests.routing.workers import in_loop, until


@pytest.mark.parametrize("is_stream", [False, True])
@in_loop
async def test_what_follows_an_answer_is_asked_for_and_prefilled(is_stream: bool) -> None:
    async with agents() as running:
        running["math-0"].continuation |= {"extra_key": "tenant"}
        await ask(running, stream=is_stream)
        await settled(running)
        (call,) = running["math-0"].calls
        assert running["math-0"].asked == [call["rid"]]
        (sent,) = running["p0"].eager
        assert sent["input_ids"] == IDS
        assert sent["extra_key"] == "tenant"
        assert sent["sampling_params"]["max_new_tokens"] == 0
        assert sent["bootstrap_host"] == NO_BOOTSTRAP_HOST
        assert isinstance(sent["bootstrap_room"], int)
        headers = running["p0"].headers[-1]
        assert (headers[EAGER_HEADER], headers[MODULE_HEADER]) == ("1", "math")
        assert jobs(running) == {"done": 1}


@in_loop
async def test_nothing_begins_before_the_client_has_its_answer() -> None:
    async with agents() as running:
        running["math-0"].gate = asyncio.Semaphore(3)
        call = asyncio.create_task(ask(running, stream=True))
        await until(lambda: running["math-0"].running)
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert running["math-0"].asked == []
        running["math-0"].gate.release()
        await call
        await until(lambda: running["math-0"].asked)


@in_loop
async def test_it_takes_no_place_and_counts_as_no_call() -> None:
    async with agents(max_running_per_worker=1, max_queued_per_module=0) as running:
        running["p0"].prefill_s = 0.3
        await ask(running)
        await until(lambda: running["p0"].eager)
        # The worker is at it, and yet has room for a call.
        await ask(running, session="other")
        await settled(running)
        state = await running.state()
        assert state["counters"]["calls"] == state["counters"]["answered"] == 2
        prefill = state["workers"][0]
        assert (prefill["calls"], prefill["running"], prefill["failed"]) == (2, 0, 0)
        assert running.parts.observer.stats_of("math").requests == 2


@in_loop
async def test_the_sessions_next_call_ends_it_at_once() -> None:
    async with agents() as running:
        running["p0"].eager_s = 3600.0
        await ask(running, max_tokens=0)
        await until(lambda: running["p0"].eager)
        (sent,) = running["p0"].eager
        running["p0"].eager_s = 0.0
        await ask(running, "tool")
        await until(lambda: running["p0"].aborted == [EAGER_RID_PREFIX + sent["rid"]])
        await settled(running)
        assert jobs(running) == {"cancelled": 1, "done": 1}


@in_loop
async def test_a_session_that_goes_on_at_once_costs_no_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SETTLE_S", 3600.0)  # however long "at once" takes on a busy machine
    async with agents() as running:
        for module in MODULES[:2]:
            await ask(running, module)
            await waiting(running, 1)
        monkeypatch.setattr(answers, "SETTLE_S", 0.01)
        await ask(running, MODULES[2])
        await settled(running)
        assert [decode_worker(running, module).asked for module in MODULES[:2]] == [[], []]
        assert jobs(running) == {"cancelled": 2, "done": 1}


@in_loop
async def test_another_sessions_call_does_not_end_it() -> None:
    async with agents() as running:
        running["p0"].prefill_s = 0.1
        await ask(running, session="a")
        await until(lambda: running["p0"].eager)
        await ask(running, session="b")
        await settled(running)
        assert jobs(running) == {"done": 2}


@in_loop
async def test_of_one_session_only_the_latest_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SETTLE_S", 0.5)  # two calls that come together do not end so
    async with agents() as running:
        running["math-0"].pause_s = 0.05
        first, second = (asyncio.create_task(ask(running)) for _ in range(2))
        await asyncio.gather(first, second)
        await settled(running)
        assert jobs(running) == {"dropped": 1, "done": 1}
        assert len(running["p0"].eager) == 1


@pytest.mark.parametrize("status", [400, 500])
@in_loop
async def test_nothing_follows_an_answer_that_is_an_error(status: int) -> None:
    async with agents(max_retries=0) as running:
        running["math-0"].status = status
        assert (await running.chat(session_id="s")).status >= 400
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert running["math-0"].asked == []


@in_loop
async def test_nothing_follows_an_answer_that_the_client_left() -> None:
    async with agents() as running:
        running["math-0"].pause_s = 30.0
        call = asyncio.create_task(ask(running))
        await until(lambda: running["math-0"].running)
        call.cancel()
        await until(lambda: running["math-0"].aborted)
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert running["math-0"].asked == []


@in_loop
async def test_nothing_follows_a_batch_or_a_call_for_no_token() -> None:
    async with agents() as running:
        for fields in ({"text": ["a", "b"]}, {"text": "hello", "sampling_params": {"max_new_tokens": 0}}):
            body = {"lora_path": "math", "session_id": "s", **fields}
            async with running.http.post(f"{running.url}/generate", json=body) as reply:
                assert reply.status == 200
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert running["math-0"].asked == []


@in_loop
async def test_calls_without_a_session_are_known_by_their_beginning() -> None:
    async with agents() as running:
        text = "a conversation that is long enough to be known again"
        await (await running.chat(text=text)).read()
        await settled(running)
        assert jobs(running) == {"done": 1}
        running["p0"].eager_s = 3600.0
        await (await running.chat(text=text + " and goes on")).read()
        await until(lambda: len(running["p0"].eager) == 2)
        running["p0"].eager_s = 0.0
        await (await running.chat(text=text + " and goes on and on")).read()
        await settled(running)
        # The third call of one module in a row was expected.
        assert jobs(running) == {"done": 2, "cancelled": 1, "pushed": 1}


@in_loop
async def test_a_busy_prefill_worker_is_not_sent_any() -> None:
    async with agents() as running:
        worker = running.parts.pool.get("p0")
        assert worker is not None
        worker.num_running += 2
        await ask(running)
        await settled(running)
        assert jobs(running) == {"dropped": 1}
        assert (running["math-0"].asked, running["p0"].eager) == ([], [])


@in_loop
async def test_a_waiting_call_keeps_it_away() -> None:
    async with agents(max_running_per_worker=1) as running:
        running["code-2"].gate = asyncio.Semaphore(0)
        calls = [asyncio.create_task(ask(running, "code", f"c{number}", stream=True)) for number in range(2)]
        await until(lambda: running.parts.admission.num_queued("code") == 1)
        await ask(running, "math")
        await until(lambda: jobs(running) == {"dropped": 1})
        assert running["math-0"].asked == []
        running["code-2"].gate = None
        for call in calls:
            call.cancel()


@in_loop
async def test_the_newest_jobs_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MAX_JOBS", 3)
    monkeypatch.setattr(answers, "SETTLE_S", 3.0)  # all five are answered before the first one's job begins
    async with agents() as running:
        for number in range(5):
            await ask(running, session=f"s{number}")
        await settled(running)
        assert jobs(running) == {"dropped": 2, "done": 3}
        asked = [body["rid"] for body in running["math-0"].calls]
        assert sorted(running["math-0"].asked) == sorted(asked[2:])


@in_loop
async def test_two_jobs_at_a_time_and_all_in_the_end() -> None:
    async with agents() as running:
        running["math-0"].continuation_gate = asyncio.Event()
        for number in range(6):
            await ask(running, session=f"s{number}")
        await until(lambda: len(running["math-0"].asked) == 2)
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert len(running["math-0"].asked) == 2
        running["math-0"].continuation_gate.set()
        await settled(running)
        assert jobs(running) == {"done": 6}


@in_loop
async def test_what_the_worker_gave_up_is_neither_done_nor_pushed() -> None:
    async with agents() as running:
        await take_turns(running, 2)
        before = jobs(running)
        running["p0"].gives_up = True
        await ask(running)
        await settled(running)
        assert jobs(running) == before | {"dropped": 1}


@in_loop
async def test_failures_are_nobodys_business(caplog: pytest.LogCaptureFixture) -> None:
    async with agents(breaker_failures=1) as running:
        running["p0"].eager_status = 503
        await ask(running)
        await settled(running)
        assert jobs(running) == {"failed": 1}
        running["p0"].eager_status = 200
        running["p0"].eager_s = 3600.0
        await ask(running)
        await until(lambda: len(running["p0"].eager) == 2)
        await running["p0"].stop()
        await settled(running)
        assert jobs(running) == {"failed": 2}
        await running["p0"].start()
        state = await running.state()
        assert [worker["breaker"] for worker in state["workers"]] == ["closed"] * 4
        assert [worker["failed"] for worker in state["workers"]] == [0] * 4
        assert (state["counters"]["failed"], state["counters"]["retries"]) == (0, 0)
        assert [record for record in caplog.records if "follows" in record.message] == []


@in_loop
async def test_a_worker_without_the_path_is_not_asked_for_ever() -> None:
    async with agents() as running:
        worker = running["math-0"]
        worker.continuation = None
        for number in range(3):
            await ask(running, session=f"s{number}")
            await settled(running)
        assert len(worker.asked) == 1
        assert jobs(running) == {}
        worker.is_healthy = False
        await until(lambda: running.parts.pool.get("math-0").state == "down")
        worker.is_healthy = True
        await running.is_up("math-0")
        await ask(running)
        await settled(running)
        assert len(worker.asked) == 2


@in_loop
async def test_a_worker_with_the_path_may_know_nothing_of_many_answers() -> None:
    async with agents() as running:
        worker = running["math-0"]
        worker.continuation, worker.knows_rids = None, True
        for number in range(3):
            await ask(running, session=f"s{number}")
            await settled(running)
        assert len(worker.asked) == 3
        assert jobs(running) == {}


@pytest.mark.parametrize(
    "content", [{}, [], {"input_ids": [], "extra_key": None, "module": "math", "new_tokens": 1}, {"input_ids": 5}]
)
@in_loop
async def test_an_answer_that_cannot_be_used_is_none(content: Any) -> None:
    async with agents() as running:
        running["math-0"].continuation = content
        await ask(running)
        await settled(running)
        assert (running["p0"].eager, jobs(running)) == ([], {})


@in_loop
async def test_switched_off_nothing_is_asked() -> None:
    async with agents(settings={"eager_answers": False}) as running:
        await ask(running)
        await asyncio.sleep(5 * answers.SETTLE_S)
        assert running["math-0"].asked == []
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            assert "eager_jobs" not in await reply.json()
        async with running.http.get(f"{running.url}/metrics") as reply:
            assert "eager_jobs" not in await reply.text()


@in_loop
async def test_a_router_that_stops_gives_its_jobs_up() -> None:
    async with agents() as running:
        running["p0"].eager_s = 3600.0
        await ask(running)
        await until(lambda: running["p0"].eager)
    (sent,) = running["p0"].eager
    assert running["p0"].aborted == [EAGER_RID_PREFIX + sent["rid"]]
