"""Calls that only want their prompt in the cache: a prefill worker answers them at every door, alone."""

import json
from typing import Any

import pytest

from prefillshare.config.router import Router
from prefillshare.contract import MODULE_HEADER, NO_BOOTSTRAP_HOST
from prefillshare.naming.names import Names
from prefillshare.routing.call.call import Call, Endpoint
from prefillshare.routing.call.legs import make_prefill_only_leg, make_scoring_leg
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.errors import BadCallError, UnknownModelError
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from prefillshare.wire.from_router import MEMBER
from tests.routing.workers import Deployment, deployment, in_loop

SERVED = Served(names=Names(base="base", modules=["math", "own"]), alone={"own"})
AHEAD = {"kv_hints": {"prefetch": True}}
MESSAGES = [{"role": "user", "content": "a"}]
BODIES: dict[Endpoint, dict[str, Any]] = {
    "/v1/chat/completions": {"model": "math", "messages": MESSAGES},
    "/v1/completions": {"model": "math", "prompt": ["a", "b"]},
    "/v1/messages": {"model": "math", "messages": MESSAGES, "max_tokens": 5},
    "/v1/responses": {"model": "math", "input": "a"},
    "/generate": {"lora_path": "math", "text": "a", "sampling_params": {"max_new_tokens": 5}},
}
EACH_DOOR = pytest.mark.parametrize("endpoint", BODIES)
BOTH_FORMS = pytest.mark.parametrize("is_stream", [False, True])


def parsed(endpoint: Endpoint, **fields: Any) -> Call:
    return parse_call(endpoint, json.dumps({**BODIES[endpoint], **AHEAD, **fields}).encode(), SERVED)


def prefill_worker() -> Worker:
    spec = WorkerSpec(id="p0", role="prefill", url="http://p:1", bootstrap_host="10.0.0.1", bootstrap_port=8998)
    return Worker(spec, Router())


@EACH_DOOR
@BOTH_FORMS
def test_its_leg_asks_for_the_prefill_module_and_hands_the_kv_to_nobody(endpoint: Endpoint, is_stream: bool) -> None:
    call = parsed(endpoint, stream=is_stream)
    assert (call.module, call.is_prefill_only, call.prefetched_for) == ("base", True, "math")
    leg = make_prefill_only_leg(call, prefill_worker())
    body = json.loads(leg.body)
    told = body | body.get(MEMBER, {})
    hosts = told["bootstrap_host"]
    assert set(hosts if isinstance(hosts, list) else [hosts]) == {NO_BOOTSTRAP_HOST}
    assert (told["stream"], told.get("model"), told["kv_hints"]) == (
        is_stream,
        None if endpoint == "/generate" else "base",
        AHEAD["kv_hints"],
    )
    assert leg.headers == {MODULE_HEADER: "math"}


def test_a_module_that_computes_its_prompts_itself_prefetches_itself() -> None:
    call = parsed("/v1/chat/completions", model="own", n=3)
    assert (call.module, call.is_prefill_only, call.prefetched_for, call.num_samples) == ("own", False, None, 1)


@EACH_DOOR
def test_without_the_hint_a_call_is_what_it_was(endpoint: Endpoint) -> None:
    for hints in ({"prefetch": False}, {"prefetch": None}, {"pin": True}, None):
        call = parsed(endpoint, kv_hints=hints)
        assert (call.module, call.is_prefill_only, call.prefetched_for) == ("math", False, None)


def test_what_is_wanted_of_its_answer_is_not_refused() -> None:
    assert parsed("/v1/chat/completions", n=3, logprobs=True).num_samples == 1
    assert parsed("/v1/completions", echo=True, logprobs=1).scoring is None
    assert parsed("/generate", sampling_params={"n": 2, "max_new_tokens": 0}, stream=True).num_samples == 1
    with pytest.raises(BadCallError, match="n is 0"):
        parsed("/v1/chat/completions", n=0)


@EACH_DOOR
def test_what_the_later_call_would_be_refused_for_is_refused(endpoint: Endpoint) -> None:
    with pytest.raises(BadCallError, match="prefetch is 'yes': it must be true or false"):
        parsed(endpoint, kv_hints={"prefetch": "yes"})
    named = "lora_path" if endpoint == "/generate" else "model"
    with pytest.raises(UnknownModelError, match="'maths' does not exist"):
        parsed(endpoint, **{named: "maths"})
    if endpoint != "/generate":
        with pytest.raises(UnknownModelError, match="never decodes here"):
            parsed(endpoint, model="base")
        with pytest.raises(BadCallError, match="model is missing"):
            parsed(endpoint, model=None)


def test_scores_of_a_stream_are_asked_for_at_once() -> None:
    fields = {"stream": True, "return_logprob": True, "logprob_start_len": 0, "kv_hints": None}
    call = parsed("/generate", **fields)
    assert call.is_stream
    assert json.loads(make_scoring_leg(call, prefill_worker()).body)["stream"] is False


async def post(running: Deployment, endpoint: Endpoint, **fields: Any) -> tuple[int, str, str]:
    body = {**BODIES[endpoint], **AHEAD, **fields}
    async with running.http.post(running.url + endpoint, json=body) as reply:
        return reply.status, reply.content_type, await reply.text()


@in_loop
async def test_the_prefill_worker_answers_alone_and_the_answer_names_the_module() -> None:
    async with deployment() as running:
        for endpoint in ("/v1/chat/completions", "/v1/completions", "/v1/messages"):
            status, _, text = await post(running, endpoint)
            assert (status, json.loads(text)["model"]) == (200, "math")
        status, _, text = await post(running, "/generate")
        assert (status, json.loads(text)["usage"]["prompt_tokens"]) == (200, 40)
        assert running["math-0"].bodies == []
        workers = {worker["id"]: worker for worker in (await running.state())["workers"]}
        assert (workers["p0"]["running"], workers["p0"]["calls"], workers["math-0"]["calls"]) == (0, 4, 0)


@in_loop
async def test_a_stream_comes_with_the_modules_name_wherever_it_stands() -> None:
    async with deployment() as running:
        made = {"choices": [], "model": "base"}, {"message": {"model": "base"}}, {"response": {"model": "base"}}
        running["p0"].pieces = [json.dumps(event) for event in (*made, {"text": "base"})]
        status, content_type, text = await post(running, "/v1/chat/completions", stream=True)
        assert (status, content_type) == (200, "text/event-stream")
        *events, done = [event.removeprefix("data: ") for event in text.split("\n\n") if event]
        told = {"choices": [], "model": "math"}, {"message": {"model": "math"}}, {"response": {"model": "math"}}
        assert [json.loads(event) for event in events] == [*told, {"text": "base"}]
        assert done == "[DONE]"
        assert running["math-0"].bodies == []


@in_loop
async def test_what_is_no_answer_is_a_failure_of_the_worker_and_another_one_is_asked() -> None:
    async with deployment(prefill=2) as running:
        good = [json.dumps({"model": "base"})]
        running["p0"].pieces = running["p1"].pieces = ["{"]
        status, _, text = await post(running, "/v1/chat/completions", stream=True)
        assert (status, "sent an event that is no JSON" in text) == (502, True)
        running["p1"].pieces = good
        assert (await post(running, "/v1/chat/completions", stream=True))[0] == 200
        for worker in ("p0", "p1"):
            running[worker].error_event = {"message": "no", "code": 503}
        status, _, text = await post(running, "/v1/chat/completions", stream=True)
        assert (status, "answered a stream with an error: no" in text) == (502, True)
        for worker in ("p0", "p1"):
            running[worker].error_event, running[worker].garbage = None, b"<html>"
        assert (await post(running, "/v1/chat/completions", stream=True))[0] in (502, 503)
        assert (await post(running, "/v1/responses"))[0] in (502, 503)


@in_loop
async def test_a_response_is_told_and_not_kept() -> None:
    async with deployment() as running:
        made = {"id": "x", "object": "response", "status": "incomplete", "output": [], "model": "base"}
        running["p0"].pieces = [json.dumps({"type": "response.incomplete", "response": made})]
        status, _, text = await post(running, "/v1/responses", background=True)
        assert (status, "background is true with prefetch" in text) == (400, True)
        assert (await post(running, "/v1/responses", kv_hints={"prefetch": 1}))[0] == 400
        status, _, text = await post(running, "/v1/responses", stream=True)
        assert (status, '"model":"math"' in text) == (200, True)
