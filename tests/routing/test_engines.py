"""Modules that compute their prompts themselves: an engine answers each call whole, prefill workers hear nothing."""

import asyncio
import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest

from prefillshare.errors import ConfigError
from prefillshare.naming.names import Names
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.choice.candidates import store_of
from prefillshare.routing.choice.policies import Candidate, Wanted, WholeCalls
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.roles.look import take_look
from prefillshare.routing.workers.spec import WorkerSpec
from tests.routing.test_monitoring import ended
from tests.routing.workers import Deployment, SmallWorker, deployment, in_loop, until
from tests.support.monitoring import module_of, worker_of

LONG = "a prompt that fills several blocks of the index " * 12
PATHS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}]},
    "/v1/completions": {"prompt": ["a", "b"], "echo": True, "logprobs": 1},
    "/generate": {"text": "a", "return_logprob": True, "logprob_start_len": 0},
    "/v1/messages": {"messages": [{"role": "user", "content": "a"}], "max_tokens": 3},
    "/v1/responses": {"input": "a"},
}


async def post(running: Deployment, path: str, **body: Any) -> tuple[int, dict[str, str], bytes]:
    async with running.http.post(running.url + path, json=body) as reply:
        return reply.status, dict(reply.headers), await reply.read()


@pytest.mark.parametrize("path", PATHS)
@in_loop
async def test_the_whole_call_goes_to_the_engine_alone(path: str) -> None:
    async with deployment(engines=("own",)) as running:
        status, headers, _ = await post(running, path, model="own", **PATHS[path])
        assert status == 200
        (body,) = running["own-e0"].bodies
        wanted = {name: value for name, value in PATHS[path].items() if name != "input"}
        assert {name: body[name] for name in wanted} == wanted
        assert body["rid"]
        assert not [name for name in body if name.startswith("bootstrap")]
        assert body["lora_path" if path == "/generate" else "model"] == "own"
        if path != "/v1/responses":
            assert (headers["X-Prefill-Worker"], headers["X-Decode-Worker"]) == ("own-e0", "own-e0")
        assert [running[name].bodies for name in ("p0", "math-0")] == [[], []]
        # A shared module beside it is answered by its pair.
        assert (await running.chat()).headers["X-Prefill-Worker"] == "p0"


@in_loop
async def test_a_stream_comes_piece_by_piece_and_the_report_stays_with_the_router() -> None:
    async with deployment(engines=("own",)) as running:
        gate = running["own-e0"].gate = asyncio.Semaphore(1)
        reply = await running.chat("own", stream=True)
        assert "X-PrefillShare-Report" not in reply.headers
        for text in (b"one", b"two", b"three", b"[DONE]"):
            assert await reply.content.readany() == b"data: " + text + b"\n\n"
            gate.release()
        assert await reply.content.readany() == b""


@pytest.mark.parametrize("stream", [True, False])
@in_loop
async def test_what_its_prompts_took_is_counted_and_what_sharing_would_save(stream: bool) -> None:
    async with deployment(engines=("own",)) as running:
        await (await running.chat("own", LONG, stream=stream)).read()
        own = module_of(await ended(running, "own", 1), "own")
        assert [own[key] for key in ("prompt_tokens", "own_hit_tokens", "cross_hit_tokens")] == [40, 8, 0]
        # Nobody had computed that prompt with the base.
        assert own["avoidable_tokens"] == 0
        await (await running.chat("math", LONG)).read()
        await ended(running, "math", 1)
        await (await running.chat("own", LONG, stream=stream)).read()
        told = await ended(running, "own", 2)
        # The prefill worker has nearly all of the 40 tokens, and the engine had 8 itself.
        assert 28 <= module_of(told, "own")["avoidable_tokens"] <= 32
        assert module_of(told, "math")["avoidable_tokens"] == 0
        engine = worker_of(told, "own-e0")
        assert (engine["role"], engine["module"], engine["handoff"]) == ("engine", "own", None)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fault", [{"status": 500}, {"status": 503}, {"drops_calls": True}])
@in_loop
async def test_a_call_that_failed_is_answered_by_the_other_engine(fault: dict[str, Any], stream: bool) -> None:
    async with deployment(engines=("own", "own")) as running:
        for name, value in fault.items():
            setattr(running["own-e0"], name, value)
        for number in range(4):
            reply = await running.chat("own", f"{number} {LONG}", stream=stream)
            assert reply.status == 200, await reply.text()
            await reply.read()
        assert (await running.state())["counters"]["failed"] == 0
        assert running["own-e0"].bodies


@in_loop
async def test_a_stream_that_breaks_off_says_so_and_is_not_tried_again() -> None:
    async with deployment(engines=("own", "own")) as running:
        for name in ("own-e0", "own-e1"):
            running[name].break_after = 1
        text = await (await running.chat("own", stream=True)).text()
        assert "the answer broke off: engine own-e" in text
        assert sum(len(running[name].bodies) for name in ("own-e0", "own-e1")) == 1


@in_loop
async def test_a_client_that_leaves_ends_the_call_and_gives_the_engine_back() -> None:
    async with deployment(engines=("own",)) as running:
        running["own-e0"].pause_s = 60.0
        for stream in (True, False):
            call = asyncio.create_task(running.chat("own", stream=stream))
            await until(lambda: running["own-e0"].running)
            if stream:
                await (await call).content.readany()
                (await call).close()
            call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await call
            await until(lambda: not running["own-e0"].running)
        await until(lambda: len(running["own-e0"].aborted) == 2)
        assert running["own-e0"].aborted == [body["rid"] for body in running["own-e0"].bodies]
        worker = running.parts.pool.get("own-e0")
        assert worker is not None
        assert worker.num_running == 0


@in_loop
async def test_an_engine_that_says_nothing_is_given_up_and_a_refusal_is_the_clients() -> None:
    async with deployment(engines=("own",), first_byte_timeout_s=0.2) as running:
        running["own-e0"].first_byte_s = 30.0
        reply = await running.chat("own", stream=True)
        assert reply.status == 504
        assert "engine own-e0 sent nothing within 0.2 s" in await reply.text()
        await until(lambda: running["own-e0"].aborted)
        running["own-e0"].first_byte_s, running["own-e0"].status = 0.0, 400
        reply = await running.chat("own")
        assert (reply.status, (await reply.json())["error"]["message"]) == (400, "own-e0 says 400")


@in_loop
async def test_a_session_keeps_its_engine_and_a_prefix_is_followed() -> None:
    async with deployment(engines=("own", "own", "own")) as running:

        async def engine(text: str, session: str | None = None) -> str:
            headers = {} if session is None else {"X-Session-ID": session}
            body = {"model": "own", "messages": [{"role": "user", "content": text}]}
            reply = await running.http.post(f"{running.url}/v1/chat/completions", json=body, headers=headers)
            await reply.read()
            return str(reply.headers["X-Decode-Worker"])

        homes = {session: await engine(f"{session} begins", session) for session in ("a", "b", "c")}
        assert len(set(homes.values())) == 3
        for _ in range(2):
            assert {session: await engine("another text", session) for session in homes} == homes
        holder = await engine(LONG)
        assert {await engine(LONG + str(number)) for number in range(5)} == {holder}


@in_loop
async def test_calls_for_no_token_are_the_engines_too() -> None:
    async with deployment(engines=("own",)) as running:
        nothing = {"text": "a", "sampling_params": {"max_new_tokens": 0}}
        status, headers, _ = await post(running, "/generate", lora_path="own", **nothing)
        assert (status, headers["X-Decode-Worker"]) == (200, "own-e0")
        status, headers, _ = await post(running, "/generate", lora_path="math", **nothing)
        assert (status, headers["X-Prefill-Worker"]) == (200, "p0")


def test_a_call_for_no_token_keeps_the_module_that_computes_its_prompts() -> None:
    served = Served(names=Names(base="base", modules=["math", "own"]), alone={"own"})
    body = {"text": "a", "sampling_params": {"max_new_tokens": 0}}
    for module, found in (("own", ("own", False)), ("math", ("base", True))):
        call = parse_call("/generate", json.dumps({**body, "lora_path": module}).encode(), served)
        assert (call.module, call.is_prefill_only) == found


@in_loop
async def test_engines_answer_without_prefill_workers_and_shared_modules_without_engines() -> None:
    async with deployment(engines=("own",)) as running:

        async def health() -> tuple[int, Any]:
            async with running.http.get(f"{running.url}/health") as reply:
                return reply.status, (await reply.json())["missing"]

        await running["p0"].stop()
        await until(lambda: running.parts.pool.get("p0").state == "down")
        assert (await running.chat("own")).status == 200
        assert (await running.chat("math")).status == 503
        assert await health() == (200, ["prefill"])
        await running["own-e0"].stop()
        reply = await running.chat("own")
        assert reply.status in (502, 503)
        await until(lambda: running.parts.pool.get("own-e0").state == "down")
        reply = await running.chat("own")
        assert "no engine of 'own' is up (own-e0 is down)" in await reply.text()
        assert await health() == (503, ["prefill", "own"])
        await running["p0"].start()
        await running.is_up("p0")
        assert (await running.chat("math")).status == 200


@in_loop
async def test_an_engine_comes_and_goes_as_other_workers_do() -> None:
    async with deployment(engines=("own",), settings={"admin_key": "a"}) as running:
        headers = {"Authorization": "Bearer a"}
        late = SmallWorker("own-e9", "engine", running["p0"].rooms, module="own", is_adapter=True)
        await late.start()
        try:
            spec = {"id": late.id, "role": "engine", "module": "own", "url": late.spec.url}
            async with running.http.post(f"{running.url}/workers", json=spec, headers=headers) as reply:
                assert reply.status == 201, await reply.text()
            await running.is_up(late.id)
            running["own-e0"].pause_s = late.pause_s = 0.2
            call = asyncio.create_task(running.chat("own", stream=True))
            await until(lambda: running["own-e0"].running or late.running)
            busy = "own-e0" if running["own-e0"].running else late.id
            async with running.http.delete(f"{running.url}/workers/{busy}", headers=headers) as reply:
                assert (await reply.json())["unfinished"] == 0
            assert "[DONE]" in await (await call).text()
            reply = await running.chat("own")
            assert reply.headers["X-Decode-Worker"] not in (busy, None)
        finally:
            await late.stop()


@in_loop
async def test_a_module_that_goes_over_to_sharing_is_served_all_the_time() -> None:
    """Its engines answer for as long as there are any: what both kinds of workers hold are different adapters."""
    async with deployment(decode=("math", "own"), engines=("own",), settings={"admin_key": "a"}) as running:
        assert (await running.chat("own")).headers["X-Decode-Worker"] == "own-e0"
        await running.gateway.leave("own-e0")
        reply = await running.chat("own")
        assert (reply.headers["X-Prefill-Worker"], reply.headers["X-Decode-Worker"]) == ("p0", "own-1")


@in_loop
async def test_nobody_moves_an_engine_and_its_calls_do_not_move_others() -> None:
    async with deployment(engines=("own",)) as running:
        look = take_look(running.parts.pool, running.parts.admission)
        assert set(look) == {None, "math"}


@in_loop
async def test_a_flush_empties_the_engines_too() -> None:
    async with deployment(engines=("own",)) as running:
        engine = running.parts.pool.get("own-e0")
        assert engine is not None
        engine.spec = replace(engine.spec, has_store=True)
        await (await running.chat("own", LONG)).read()
        index = running.parts.chooser.index
        # What its store has is nobody else's: prefill workers cannot load it.
        await until(lambda: index.held_bytes("own-e0"))
        assert index.held_bytes(store_of("own")) == index.held_bytes("own-e0")
        assert index.held_bytes(store_of(None)) == 0
        async with running.http.post(f"{running.url}/flush_cache") as reply:
            assert reply.status == 200
        assert index.held_bytes("own-e0") == index.held_bytes(store_of("own")) == 0


def test_a_worker_of_no_module_is_no_engine() -> None:
    with pytest.raises(ConfigError, match="engine worker 'e' has no module"):
        WorkerSpec(id="e", role="engine", url="http://e:1")


def candidates(*calls: int, held: int = -1) -> list[Candidate]:
    return [
        Candidate(id=f"e{number}", num_running=count, matched_bytes=300 if number == held else 0)
        for number, count in enumerate(calls)
    ]


@pytest.mark.parametrize(
    ("calls", "held", "chosen"),
    [
        ((0, 0, 0), 2, "e2"),
        ((0, 0, 2), 2, "e2"),
        ((0, 1, 4), 2, "e0"),
        ((4, 4, 6), 2, "e2"),
        ((2, 1, 2), -1, "e1"),
    ],
)
def test_the_holder_of_the_prefix_unless_it_has_clearly_more_calls(
    calls: tuple[int, ...], held: int, chosen: str
) -> None:
    policy = WholeCalls(Sessions(10), slack=2)
    assert policy.choose(Wanted(prompt_bytes=400), candidates(*calls, held=held)) == chosen
    # A session's own engine counts as the holder does, whatever the index knows.
    policy.sessions.pin("s", f"e{held}")
    assert policy.choose(Wanted(session="s", prompt_bytes=400), candidates(*calls)) == chosen


def test_a_short_common_beginning_draws_nobody() -> None:
    policy = WholeCalls(Sessions(10), slack=2)
    found = {policy.choose(Wanted(prompt_bytes=4000), candidates(0, 0, 0, held=1)) for _ in range(3)}
    assert found == {"e0", "e1", "e2"}
