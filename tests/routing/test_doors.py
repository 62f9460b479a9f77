"""Doors beside chats: messages, responses and scores of prompts, over small workers that fail on purpose."""

import asyncio
import json
from typing import Any

import pytest

from prefillshare.config.responses import Responses
from tests.routing.routers import two_routers
from tests.routing.workers import Deployment, deployment, in_loop, until

MESSAGE: dict[str, Any] = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
RESPONSE: dict[str, Any] = {"model": "math", "input": "hi"}
ANSWER = {"object": "response", "status": "completed", "output": [{"type": "message", "role": "assistant"}]}
SCORED = {"model": "math", "prompt": "a", "echo": True, "logprobs": 1}


async def post(running: Deployment, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    async with running.http.post(running.url + path, json=body, headers=headers) as reply:
        return reply.status, await reply.json()


@in_loop
async def test_both_legs_of_a_message_are_told_beside_the_body_where_they_meet() -> None:
    async with deployment() as running:
        assert (await post(running, "/v1/messages", MESSAGE))[0] == 200
        prefill, decode = running["p0"].bodies[0], running["math-0"].bodies[0]
        assert (prefill["model"], decode["model"]) == ("base", "math")
        assert prefill["bootstrap_room"] == decode["bootstrap_room"]
        assert prefill["rid"] != decode["rid"]


@pytest.mark.parametrize("status", [400, 503])
@in_loop
async def test_an_error_of_a_message_has_the_form_of_its_clients(status: int) -> None:
    async with deployment(max_retries=0) as running:
        running["math-0"].status = status
        got, told = await post(running, "/v1/messages", MESSAGE)
        assert got == (400 if status == 400 else 502)
        assert (told["type"], set(told["error"])) == ("error", {"type", "message"})


@in_loop
async def test_a_stream_of_messages_that_breaks_off_ends_with_an_event_that_its_clients_know() -> None:
    async with deployment() as running:
        running["math-0"].break_after = 1
        async with running.http.post(f"{running.url}/v1/messages", json=MESSAGE | {"stream": True}) as reply:
            told = (await reply.read()).decode()
        last = told.strip().split("\n\n")[-1]
        assert last.startswith("event: error\ndata: ")
        assert json.loads(last.partition("data: ")[2])["type"] == "error"


@pytest.mark.parametrize("path", ["/tokenize", "/detokenize", "/v1/messages/count_tokens", "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True])
@in_loop
async def test_a_body_that_can_be_read_and_not_be_written_is_its_senders_fault(path: str, stream: bool) -> None:
    nested: list[Any] = []
    for _ in range(300):
        nested = [nested]
    async with deployment() as running:
        status, told = await post(running, path, RESPONSE | {"stream": stream, "metadata": nested})
        assert (status, told["error"]["type"]) == (400, "invalid_request_error")
        assert "nest it less deeply" in told["error"]["message"]


@in_loop
async def test_the_key_is_taken_as_anthropics_clients_send_it() -> None:
    async with deployment(settings={"api_key": "right"}) as running:
        assert (await post(running, "/v1/messages", MESSAGE, **{"X-Api-Key": "right"}))[0] == 200
        status, told = await post(running, "/v1/messages", MESSAGE, **{"X-Api-Key": "wrong"})
        assert (status, told["error"]["type"]) == (401, "authentication_error")


@in_loop
async def test_scores_are_asked_first_and_go_along() -> None:
    async with deployment() as running:
        assert (await post(running, "/v1/completions", SCORED))[0] == 200
        scoring, leg = running["p0"].bodies
        assert (scoring["logprob_start_len"], scoring["sampling_params"]["max_new_tokens"]) == (0, 0)
        assert "logprobs" not in leg
        (decode,) = running["math-0"].bodies
        assert decode["prompt_logprobs"] == [{"input_token_logprobs": [[-1.0, 5, "a"]]}]
        assert all(worker.num_running == 0 for worker in running.parts.pool)


@pytest.mark.parametrize(("status", "told"), [(400, 400), (500, 502)])
@in_loop
async def test_scores_that_cannot_be_had_are_the_answer_and_no_decode_worker_hears_of_it(
    status: int, told: int
) -> None:
    async with deployment(max_retries=0) as running:
        running["p0"].status = status
        assert (await post(running, "/v1/completions", SCORED))[0] == told
        assert running["math-0"].bodies == []
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))


@in_loop
async def test_a_client_that_leaves_while_its_prompt_is_scored_leaves_nothing_behind() -> None:
    async with deployment() as running:
        running["p0"].prefill_s = 30
        call = asyncio.create_task(post(running, "/v1/completions", SCORED))
        await until(lambda: running["p0"].running)
        (scoring,) = running["p0"].bodies
        call.cancel()
        await until(lambda: scoring["rid"] in running["p0"].aborted)
        await until(lambda: all(worker.num_running == 0 for worker in running.parts.pool))


@in_loop
async def test_a_response_that_goes_on_sends_the_conversation_and_is_one_session() -> None:
    async with deployment() as running:
        running["math-0"].answer = ANSWER
        _, first = await post(running, "/v1/responses", RESPONSE)
        _, more = await post(running, "/v1/responses", RESPONSE | {"previous_response_id": first["id"]})
        assert more["previous_response_id"] == first["id"]
        bodies = running["math-0"].bodies
        assert [item["role"] for item in bodies[1]["input"]] == ["user", "assistant", "user"]
        assert bodies[0]["session_id"] == bodies[1]["session_id"]
        assert [body["store"] for body in bodies] == [False, False]
        assert len(running.parts.sessions) == 1


@in_loop
async def test_a_full_memory_forgets_the_oldest_and_goes_on() -> None:
    async with deployment(settings={"responses": Responses(max_count=2)}) as running:
        running["math-0"].answer = ANSWER
        ids = [(await post(running, "/v1/responses", RESPONSE))[1]["id"] for _ in range(4)]
        found = [(await running.http.get(f"{running.url}/v1/responses/{each}")).status for each in ids]
        assert found == [404, 404, 200, 200]
        status, told = await post(running, "/v1/responses", RESPONSE | {"previous_response_id": ids[0]})
        assert (status, told["error"]["param"]) == (404, "previous_response_id")


@in_loop
async def test_a_response_in_the_background_outlives_its_caller_and_fails_with_a_reason() -> None:
    async with deployment(max_retries=0) as running:
        running["math-0"].status = 400
        _, queued = await post(running, "/v1/responses", RESPONSE | {"background": True})
        assert queued["status"] == "queued"
        kept = f"{running.url}/v1/responses/{queued['id']}"
        told: dict[str, Any] = {}
        while told.get("status") not in ("completed", "failed"):
            told = await (await running.http.get(kept)).json()
        assert (told["status"], told["error"]["message"]) == ("failed", "math-0 says 400")


@in_loop
async def test_a_stopping_router_ends_what_it_computes_in_the_background() -> None:
    async with deployment() as running:
        running["math-0"].answer = ANSWER
        running["math-0"].first_byte_s = 30
        await post(running, "/v1/responses", RESPONSE | {"background": True})
        await until(lambda: running["math-0"].bodies)
        await running.gateway.responses.close()
        await until(lambda: running.gateway.proxy.num_running == 0)


@in_loop
async def test_a_path_with_a_name_in_it_says_which_methods_it_takes() -> None:
    async with deployment() as running, running.http.put(f"{running.url}/v1/responses/resp_a") as reply:
        assert (reply.status, reply.headers["Allow"]) == (405, "GET, DELETE")


@in_loop
async def test_of_several_routers_one_has_the_whole_conversation_whichever_is_asked() -> None:
    async with two_routers() as routers:
        routers[0]["math-0"].answer = ANSWER
        for asked in (*routers, *routers, *routers):
            _, first = await post(asked, "/v1/responses", RESPONSE)
            for other in routers:
                status, more = await post(other, "/v1/responses", RESPONSE | {"previous_response_id": first["id"]})
                assert (status, more["previous_response_id"]) == (200, first["id"])
                got = await other.http.get(f"{other.url}/v1/responses/{more['id']}")
                assert (got.status, (await got.json())["id"]) == (200, more["id"])
        assert all(len(router.gateway.responses.store) % 3 == 0 for router in routers)
        gone = await routers[0].http.delete(f"{routers[0].url}/v1/responses/{first['id']}")
        assert gone.status == 200
        again = await routers[1].http.delete(f"{routers[1].url}/v1/responses/{first['id']}")
        assert again.status == 404
