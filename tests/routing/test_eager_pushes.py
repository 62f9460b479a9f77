"""What is pushed to the module that comes next, what the router then knows, and what it tells of all that."""

from typing import Any

from prefillshare.contract import NO_BOOTSTRAP_HOST
from prefillshare.observe.document import PushState, no_tokens
from prefillshare.observe.observer import Observer
from prefillshare.observe.state import deployment_state, worker_state
from tests.routing.agents import IDS, MODULES, agents, ask, decode_worker, jobs, settled, take_turns
from tests.routing.workers import in_loop, until
from tests.support.monitoring import scraped, worker_of
from tests.support.state_document import mistakes_in


@in_loop
async def test_the_new_part_is_pushed_to_the_module_that_comes_next() -> None:
    async with agents() as running:
        await take_turns(running, 1)
        assert [decode_worker(running, module).eager for module in MODULES] == [[], [], []]
        await take_turns(running, 2)
        # The fifth call is the first that was expected, so the sixth is the first that is prepared.
        assert [len(decode_worker(running, module).eager) for module in MODULES] == [2, 1, 2]
        (body, *_) = decode_worker(running, "tool").eager
        assert body["input_ids"] == IDS
        assert body["sampling_params"]["max_new_tokens"] == 0
        pair = next(sent for sent in running["p0"].eager if sent["bootstrap_room"] == body["bootstrap_room"])
        assert pair["bootstrap_host"] == body["bootstrap_host"] == "127.0.0.1"
        assert pair["bootstrap_port"] == body["bootstrap_port"] == 8998
        assert "lora_path" not in body
        assert jobs(running) == {"done": 9, "pushed": 5}


@in_loop
async def test_an_adapter_is_named_and_the_last_prompts_worker_is_chosen() -> None:
    async with agents(decode=("math", "math")) as running:
        for worker in running.workers.values():
            worker.is_adapter = worker.role == "decode"
            worker.is_healthy = False
        await until(lambda: all(worker.state == "down" for worker in running.parts.pool))
        for worker in running.workers.values():
            worker.is_healthy = True
        await running.is_up(*running.workers)
        for _ in range(4):
            await ask(running)
            await settled(running)
        first, second = running["math-0"], running["math-1"]
        used, other = (first, second) if first.calls else (second, first)
        # The replica that holds the session's prompt is the one that its next call meets.
        assert (len(used.calls), other.calls, other.eager) == (4, [], [])
        assert [body["lora_path"] for body in used.eager] == ["math"] * 2


@in_loop
async def test_a_replica_without_room_is_not_pushed_to() -> None:
    async with agents() as running:
        await take_turns(running, 2)
        math = running.parts.pool.get("math-0")
        assert math is not None
        before = len(running["math-0"].eager)
        await ask(running, "math")
        await ask(running, "tool")
        math.num_running += math.max_running
        await ask(running, "code")
        await settled(running)
        assert len(running["math-0"].eager) == before
        math.num_running -= math.max_running


@in_loop
async def test_a_push_that_one_worker_refuses_ends_at_the_other() -> None:
    async with agents() as running:
        await take_turns(running, 2)
        before, pushed = len(running["p0"].eager), jobs(running)["pushed"]
        running["tool-1"].status = 400
        running["p0"].prefill_s = 0.1
        await ask(running, "math")
        await settled(running)
        # The one that made the KV went well; the one that was to send it is told.
        made, sent = running["p0"].eager[before:]
        assert made["bootstrap_host"] == NO_BOOTSTRAP_HOST
        await until(lambda: running["p0"].aborted == [sent["rid"]])
        assert jobs(running) == {"done": 7, "pushed": pushed}
        assert {worker["breaker"] for worker in (await running.state())["workers"]} == {"closed"}


@in_loop
async def test_a_push_that_one_worker_gives_up_ends_at_the_other_at_once() -> None:
    async with agents() as running:
        await take_turns(running, 2)
        before, pushed = len(running["p0"].eager), jobs(running)["pushed"]
        running["p0"].gives_pushes_up = True
        await ask(running, "math")
        await settled(running)
        _, sent = running["p0"].eager[before:]
        # Nobody sends it anything: it would wait for that.
        await until(lambda: running["tool-1"].aborted == [sent["rid"]])
        assert jobs(running) == {"done": 7, "pushed": pushed}


@in_loop
async def test_a_session_that_calls_at_random_is_pushed_nothing() -> None:
    async with agents() as running:
        for module in ("math", "tool", "math", "code", "tool", "tool", "code", "math", "math", "tool", "code", "code"):
            await ask(running, module)
            await settled(running)
        assert jobs(running) == {"done": 12}


@in_loop
async def test_what_was_made_ahead_counts_as_held() -> None:
    """The index finds the last prompt; of the answer the router knows only for how many tokens it stands."""
    async with agents(prefill=2) as running:
        running["math-0"].continuation |= {"new_tokens": 100}
        text = "hello there, this is long enough" * 4  # two blocks of the index, beside what is around it
        messages = [{"role": "user", "content": text}]
        await ask(running, messages=messages)
        await settled(running)
        messages += [{"role": "assistant", "content": "y" * 5000}, {"role": "user", "content": "z" * 5000}]
        chooser = running.parts.chooser
        before = running.gateway.proxy.counters.matched_bytes
        await ask(running, messages=messages)
        found = running.gateway.proxy.counters.matched_bytes - before
        first = len(text)
        assert first + 100 * 1 <= found <= first + 100 * 8 + 40
        assert chooser.bytes_per_token > 1


@in_loop
async def test_a_worker_that_lost_the_prompt_is_credited_nothing() -> None:
    async with agents() as running:
        await ask(running)
        await settled(running)
        async with running.http.post(f"{running.url}/flush_cache") as reply:
            assert reply.status == 200
        await ask(running)
        assert running.gateway.proxy.counters.matched_bytes == 0


@in_loop
async def test_state_and_metrics_tell_what_became_of_it() -> None:
    async with agents() as running:
        await take_turns(running, 2)
        running["math-0"].told = told("math-0", pushed=40, hit=30)
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            state = await reply.json()
        assert mistakes_in(state) == []
        assert state["eager_jobs"] == {"done": 6, "dropped": 0, "cancelled": 0, "failed": 0, "pushed": 2, "waiting": 0}
        assert worker_of(state, "math-0")["push"] == pushes(40, 30)
        assert worker_of(state, "p0")["push"] is None
        # Started again, it begins at 0.
        running["math-0"].told = told("math-0", started=2.0, pushed=5, hit=1)
        async with running.http.get(f"{running.url}/metrics") as reply:
            samples = scraped(await reply.text())
        labels = (("module", "math"), ("role", "decode"), ("worker", "math-0"))
        assert samples["prefillshare_pushed_tokens_total", labels] == 45
        assert samples["prefillshare_push_hit_tokens_total", labels] == 31
        assert samples["prefillshare_eager_jobs_total", (("outcome", "done"),)] == 6
        assert samples["prefillshare_eager_pushes_total", ()] == 2


def pushes(pushed: int, hit: int) -> PushState:
    return {"pushed_tokens": pushed, "push_hit_tokens": hit, "push_wasted_tokens": 3, "dropped_pushes": 0}


def told(worker_id: str, *, started: float = 1.0, pushed: int, hit: int) -> dict[str, Any]:
    """What a decode worker tells of itself."""
    entry = worker_state(
        id=worker_id,
        role="decode",
        module="math",
        url="http://x",
        pid=1,
        state="up",
        restarts=0,
        totals=no_tokens(),
        running=0,
        queued=0,
        kv=None,
        handoff=None,
        push=pushes(pushed, hit),
    )
    observer = Observer(lambda: started)
    document = deployment_state(
        observer,
        name="d",
        topology="disaggregated",
        prefill_module="base",
        modules=[],
        workers=[entry],
    )
    return dict(document)
