"""Calls that go well, calls that the client leaves, and calls that cannot be taken."""

import asyncio
import contextlib
import io
import json
from typing import Any

import aiohttp
import pytest

from tests.routing.workers import deployment, in_loop, until


@in_loop
async def test_the_decode_workers_answer_comes_back_with_its_status_and_words() -> None:
    async with deployment(decode=("math", "code")) as running:
        reply = await running.chat("code")
        assert (reply.status, await reply.json()) == (200, {"model": "code", "text": "one two three"})
        assert (reply.headers["X-Prefill-Worker"], reply.headers["X-Decode-Worker"]) == ("p0", "code-1")
        assert running["math-0"].bodies == []
        assert running["p0"].bodies[0]["model"] == "base"


@in_loop
async def test_a_stream_is_passed_on_piece_by_piece_and_byte_for_byte() -> None:
    async with deployment() as running:
        # The worker makes a piece only when the client has the one before.
        gate = running["math-0"].gate = asyncio.Semaphore(1)
        reply = await running.chat(stream=True)
        for text in (b"one", b"two", b"three", b"[DONE]"):
            assert await reply.content.readany() == b"data: " + text + b"\n\n"
            gate.release()
        assert await reply.content.readany() == b""
        assert reply.headers["Content-Type"] == "text/event-stream; charset=utf-8"


@in_loop
async def test_both_legs_run_at_once() -> None:
    async with deployment() as running:
        running["p0"].prefill_s = 3600.0
        call = asyncio.create_task(running.chat(stream=True))
        await until(lambda: running["p0"].running and running["math-0"].running)
        assert not call.done()
        call.cancel()


@in_loop
async def test_completions_and_generate_reach_the_same_path_of_the_workers() -> None:
    async with deployment() as running:
        for path, body in (
            ("/v1/completions", {"model": "math", "prompt": ["a", "b"]}),
            ("/generate", {"lora_path": "math", "text": "a"}),
        ):
            async with running.http.post(running.url + path, json=body) as reply:
                assert reply.status == 200
        assert [len(running[name].bodies) for name in ("p0", "math-0")] == [2, 2]


@in_loop
async def test_generate_selects_the_adapter_on_a_worker_that_has_one() -> None:
    async with deployment(prefill=1, decode=()) as running:
        worker = type(running["p0"])("d", "decode", running["p0"].rooms, module="math", is_adapter=True)
        await worker.start()
        try:
            running.gateway.join(worker.spec)
            await running.is_up("d")
            async with running.http.post(running.url + "/generate", json={"model": "math", "text": "a"}) as reply:
                assert reply.status == 200
            assert worker.bodies[0]["lora_path"] == "math"
        finally:
            await worker.stop()


@pytest.mark.parametrize("stream", [True, False])
@in_loop
async def test_a_client_that_leaves_ends_both_legs(stream: bool) -> None:
    async with deployment() as running:
        running["p0"].prefill_s = 300.0
        call = asyncio.create_task(running.chat(stream=stream))
        workers = running["p0"], running["math-0"]
        await until(lambda: all(worker.bodies for worker in workers))
        call.cancel()
        for worker in workers:
            rid = worker.bodies[0]["rid"]
            await until(lambda worker=worker, rid=rid: worker.cut_off == [rid] and worker.aborted == [rid])
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))
        assert (await running.state())["counters"]["aborted"] == 1
        running["p0"].prefill_s = 0.0
        assert (await running.chat()).status == 200


@in_loop
async def test_a_client_that_leaves_after_the_prefill_ends_the_decode_leg() -> None:
    async with deployment() as running:
        worker = running["math-0"]
        worker.first_byte_s = 30.0
        call = asyncio.create_task(running.chat())
        await until(lambda: worker.running and running.parts.pool.get("p0").num_running == 0)
        call.cancel()
        await until(lambda: worker.aborted == [worker.bodies[0]["rid"]])
        assert running["p0"].aborted == []


@in_loop
async def test_a_batch_that_its_client_leaves_is_aborted_over_few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    async with deployment() as running:
        http, opened = running.parts.client._http, []
        connect = http._connect
        monkeypatch.setattr(http, "_connect", lambda origin: opened.append(origin) or connect(origin))
        running["p0"].prefill_s = 3600.0
        body = {"model": "math", "prompt": ["hello there"] * 300}
        call = asyncio.create_task(running.http.post(f"{running.url}/v1/completions", json=body))
        await until(lambda: running["p0"].running == running["math-0"].running == 1)
        call.cancel()
        for worker in running.workers.values():
            await until(lambda worker=worker: sorted(worker.aborted) == sorted(worker.bodies[0]["rid"]))
        assert len(opened) < 30


@in_loop
async def test_a_client_that_leaves_in_the_middle_of_a_stream_ends_the_decode_leg() -> None:
    async with deployment() as running:
        worker = running["math-0"]
        worker.pieces, worker.pause_s = ["x"] * 1000, 0.02
        reply = await running.chat(stream=True)
        await reply.content.readany()
        reply.close()
        await until(lambda: worker.cut_off and worker.aborted == worker.cut_off)
        assert running["p0"].aborted == []
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))


@in_loop
async def test_a_client_that_leaves_a_fast_stream_is_no_error_of_the_router(caplog: pytest.LogCaptureFixture) -> None:
    """Whether its leaving shows as a cancellation or at the next write."""
    async with deployment() as running:
        worker = running["math-0"]
        worker.pieces = ["x" * 2000] * 2000
        for _ in range(20):
            reply = await running.chat(stream=True)
            await reply.content.readany()
            reply.close()
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))
        assert (await running.state())["counters"]["aborted"] == 20
    assert not [record for record in caplog.records if record.levelname == "ERROR"], caplog.text


@in_loop
async def test_a_refusal_by_the_decode_worker_comes_back_and_the_prefill_leg_ends() -> None:
    async with deployment() as running:
        running["math-0"].status = 400
        running["p0"].prefill_s = 30.0
        reply = await running.chat()
        assert reply.status == 400
        error = {"message": "math-0 says 400", "type": "x", "param": None, "code": None}
        assert await reply.json() == {"error": error}
        await until(lambda: running["p0"].aborted)
        assert running.parts.pool.get("math-0").num_failed == 0


@in_loop
async def test_a_refusal_by_the_prefill_worker_alone_comes_back_too() -> None:
    async with deployment() as running:
        running["p0"].status = 400
        reply = await running.chat(stream=True)
        assert (reply.status, (await reply.json())["error"]["message"]) == (400, "p0 says 400")
        await until(lambda: running["math-0"].aborted)


@pytest.mark.parametrize("status", [400, 404, 409, 413, 422, 429])
@in_loop
async def test_a_refusal_by_both_workers_is_one_answer_and_no_workers_fault(status: int) -> None:
    async with deployment(prefill=2, decode=("math", "math"), breaker_failures=1) as running:
        for worker in running.workers.values():
            worker.status = status
        for stream in (False, True):
            reply = await running.chat(stream=stream)
            assert (reply.status, (await reply.json())["error"]["type"]) == (status, "x")
        counters = (await running.state())["counters"]
        assert (counters["calls"], counters["retries"], counters["answered"]) == (2, 0, 2)
        known = [running.parts.pool.get(worker_id) for worker_id in running.workers]
        assert all(worker and (worker.num_failed, worker.breaker.state) == (0, "closed") for worker in known)
        await until(lambda: not any(worker.running for worker in running.workers.values()))


@pytest.mark.parametrize(
    "body",
    [
        {"object": "error", "message": "n is wrong", "type": "BadRequest", "param": None, "code": 400},
        {"message": "n is wrong"},
        {"detail": "n is wrong"},
        {"error": "n is wrong"},
        {"error": {"message": "n is wrong"}},
    ],
)
@in_loop
async def test_a_refusal_in_another_form_becomes_openais(body: dict[str, Any]) -> None:
    async with deployment() as running:
        running["math-0"].status, running["math-0"].error_body = 400, body
        reply = await running.chat()
        error = {"message": "n is wrong", "type": "invalid_request_error", "param": None, "code": None}
        assert (reply.status, await reply.json()) == (400, {"error": error})


@in_loop
async def test_the_prefill_leg_is_asked_for_nothing_of_the_answer() -> None:
    wanted: dict[str, Any] = {"logprobs": True, "top_logprobs": 2, "return_token_ids": True, "echo": False}
    async with deployment() as running:
        await (await running.chat(**wanted)).read()
        assert not wanted.keys() & running["p0"].bodies[0].keys()
        assert {name: running["math-0"].bodies[0][name] for name in wanted} == wanted


@in_loop
async def test_an_error_in_the_first_event_becomes_the_status() -> None:
    async with deployment() as running:
        running["math-0"].error_event = {"message": "too long", "code": 400}
        reply = await running.chat(stream=True)
        assert (reply.status, (await reply.json())["error"]["message"]) == (400, "too long")


@in_loop
async def test_the_next_turn_goes_where_the_prefix_is() -> None:
    async with deployment(prefill=3, decode=("math", "code")) as running:
        text = "a long prompt " * 80
        first = (await running.chat("math", text)).headers["X-Prefill-Worker"]
        await until(lambda: running.parts.chooser.index.num_nodes)
        for number in range(4):
            reply = await running.chat("code", f"{text} and question {number}")
            assert reply.headers["X-Prefill-Worker"] == first
        state = await running.state()
        assert state["counters"]["matched_bytes"] > 0.7 * state["counters"]["prompt_bytes"]


@in_loop
async def test_a_session_header_pins_calls_that_share_no_prefix() -> None:
    async with deployment(prefill=3) as running:
        messages = [{"role": "user", "content": "x"}]
        chosen = set()
        for number in range(6):
            async with running.http.post(
                f"{running.url}/v1/chat/completions",
                json={"model": "math", "messages": messages, "cache_salt": str(number)},
                headers={"X-Session-ID": "s"},
            ) as reply:
                chosen.add(reply.headers["X-Prefill-Worker"])
        assert len(chosen) == 1


@in_loop
async def test_bad_input_is_answered_without_any_worker() -> None:
    async with deployment(max_body_bytes=100_000) as running:
        url = f"{running.url}/v1/chat/completions"
        json_type = {"Content-Type": "application/json"}
        cases = [
            (415, {"data": b"{}", "headers": {"Content-Type": "text/plain"}}),
            (400, {"data": b"{", "headers": json_type}),
            (400, {"json": {"model": "math"}}),
            (404, {"json": {"model": "zzz", "messages": [{}]}}),
            (413, {"json": {"model": "math", "messages": [{"role": "user", "content": "x" * 200_000}]}}),
        ]
        for status, arguments in cases:
            async with running.http.post(url, **arguments) as reply:
                assert reply.status == status
                assert (await reply.json())["error"]["message"]
        assert all(worker.bodies == [] for worker in running.workers.values())


@in_loop
async def test_a_body_without_a_length_is_bounded_too() -> None:
    async def body():
        for _ in range(100):
            yield b"x" * 10_000

    async with deployment(max_body_bytes=100_000) as running:
        headers = {"Content-Type": "application/json"}
        # The router answers and closes while the client is still sending, which the client may see as a reset.
        with contextlib.suppress(aiohttp.ClientOSError):
            async with running.http.post(f"{running.url}/generate", data=body(), headers=headers) as reply:
                assert reply.status == 413
        assert (await running.chat()).status == 200


@in_loop
async def test_ten_megabytes_pass_through() -> None:
    async with deployment() as running:
        text = "apple " * 1_750_000
        body = json.dumps({"model": "math", "messages": [{"role": "user", "content": text}]}).encode()
        headers = {"Content-Type": "application/json"}
        url = f"{running.url}/v1/chat/completions"
        async with running.http.post(url, data=io.BytesIO(body), headers=headers) as reply:
            assert reply.status == 200
        assert running["math-0"].bodies[0]["messages"][0]["content"] == text


@in_loop
async def test_what_a_worker_says_against_its_module_is_passed_on() -> None:
    async with deployment(decode=("math", "code")) as running:
        worker = running["code-1"]
        worker.warning = "objective full-ft: answers badly over shared KV"
        worker.is_healthy = False
        await until(lambda: running.parts.pool.get("code-1").state == "down")
        worker.is_healthy = True
        await running.is_up("code-1")
        async with running.http.get(f"{running.url}/v1/models") as reply:
            cards = (await reply.json())["data"]
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            modules = (await reply.json())["modules"]
        for told in (cards, modules):
            assert [module["warning"] for module in told] == [None, worker.warning]


@in_loop
async def test_models_and_information() -> None:
    async with deployment(decode=("math", "code")) as running:
        async with running.http.get(f"{running.url}/v1/models") as reply:
            cards = (await reply.json())["data"]
        assert [(card["id"], card["parent"], card["max_model_len"]) for card in cards] == [
            ("math", "base", 512),
            ("code", "base", 512),
        ]
        for path, status in (("math", 200), ("base", 404)):
            async with running.http.get(f"{running.url}/v1/models/{path}") as reply:
                assert reply.status == status
        for path in ("/model_info", "/get_model_info"):
            async with running.http.get(running.url + path) as reply:
                assert (await reply.json())["decode_modules"] == ["math", "code"]


@in_loop
async def test_other_paths_and_methods_are_answered_with_what_there_is() -> None:
    async with deployment() as running:
        async with running.http.get(f"{running.url}/v1/embeddings") as reply:
            assert reply.status == 404
            assert "/v1/chat/completions" in (await reply.json())["error"]["message"]
        async with running.http.get(f"{running.url}/v1/completions") as reply:
            assert (reply.status, reply.headers["Allow"]) == (405, "POST")


@in_loop
async def test_flushing_reaches_all_workers_and_the_index() -> None:
    async with deployment() as running:
        await running.chat()
        await until(lambda: running.parts.chooser.index.num_nodes)
        async with running.http.post(f"{running.url}/flush_cache") as reply:
            assert reply.status == 200
        assert running.parts.chooser.index.num_nodes == 0
        running["math-0"].is_healthy = False
        async with running.http.post(f"{running.url}/flush_cache") as reply:
            assert reply.status == 400
            assert json.loads(await reply.read())["workers"]["math-0"]["status"] == 503


@in_loop
async def test_keys_are_asked_for_and_the_workers_own_is_sent_to_them() -> None:
    async with deployment(settings={"api_key": "k", "admin_key": "a", "worker_api_key": "w"}) as running:
        for worker in running.workers.values():
            worker.api_key = "w"
        for path in ("/v1/models", "/workers", "/router/state", "/anything"):
            async with running.http.get(running.url + path) as reply:
                assert reply.status == 401
        async with running.http.get(f"{running.url}/health") as reply:
            assert reply.status == 200
        assert (await running.chat()).status == 401
        url, body = f"{running.url}/v1/chat/completions", {"model": "math", "messages": [{}]}
        for key, status in (("k", 200), ("a", 200), ("x", 401), ("", 401)):
            async with running.http.post(url, json=body, headers={"Authorization": f"Bearer {key}"}) as reply:
                assert reply.status == status
        headers = {"Authorization": "Bearer k"}
        async with running.http.post(f"{running.url}/workers", json={}, headers=headers) as reply:
            assert reply.status == 401
