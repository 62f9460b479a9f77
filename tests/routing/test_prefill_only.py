"""Calls that ask for no token: a prefill worker answers alone. And modules named by the address."""

import asyncio
import json
from typing import Any

import pytest

from prefillshare.config.router import Router
from prefillshare.contract import NO_BOOTSTRAP_HOST
from prefillshare.naming.names import Names
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.legs import make_prefill_only_leg
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.errors import BadCallError, UnknownModelError
from prefillshare.routing.workers.spec import WorkerSpec
from prefillshare.routing.workers.worker import Worker
from tests.routing.workers import Deployment, deployment, in_loop, until

SERVED = Served(names=Names(base="base", modules=["math", "code"]))
NOTHING = {"max_new_tokens": 0}


def _parse(body: dict[str, Any], addressed: str | None = None) -> Call:
    return parse_call("/generate", json.dumps({"text": "a", **body}).encode(), SERVED, addressed=addressed)


@pytest.mark.parametrize(
    ("body", "addressed", "module"),
    [
        ({}, "code", "code"),
        ({"lora_path": "math"}, "code", "math"),
        ({"model": "math"}, "code", "math"),
        ({"model": "base", "lora_path": "math"}, None, "math"),
        ({"sampling_params": NOTHING}, None, "base"),
        ({"sampling_params": NOTHING}, "base", "base"),
        ({"sampling_params": NOTHING, "lora_path": "math"}, None, "base"),
        ({"text": ["a", "b"], "sampling_params": [NOTHING, NOTHING]}, "code", "base"),
        ({"text": ["a", "b"], "sampling_params": [NOTHING, {}]}, "code", "code"),
        ({"sampling_params": NOTHING, "stream": True}, "code", "code"),
        ({"sampling_params": {"max_new_tokens": False}}, "code", "code"),
    ],
)
def test_who_answers(body: dict[str, Any], addressed: str | None, module: str) -> None:
    call = _parse(body, addressed)
    assert (call.module, call.is_prefill_only) == (module, module == "base")


def test_an_unknown_name_is_refused_though_no_module_is_needed() -> None:
    with pytest.raises(UnknownModelError, match="'maths' does not exist"):
        _parse({"sampling_params": NOTHING, "lora_path": "maths"})
    with pytest.raises(BadCallError, match="n is 2"):
        _parse({"sampling_params": {**NOTHING, "n": 2}})


def test_its_leg_hands_the_kv_to_nobody() -> None:
    spec = WorkerSpec(id="p0", role="prefill", url="http://p:1", bootstrap_host="10.0.0.1", bootstrap_port=8998)
    call = _parse({"text": ["a", "b"], "sampling_params": NOTHING, "bootstrap_host": "evil", "return_logprob": True})
    body = json.loads(make_prefill_only_leg(call, Worker(spec, Router())).body)
    assert body["bootstrap_host"] == [NO_BOOTSTRAP_HOST] * 2
    assert len(set(body["bootstrap_room"])) == len(set(body["rid"])) == 2
    assert (body["return_logprob"], body["stream"], "lora_path" in body) == (True, False, False)


async def _generate(running: Deployment, path: str = "/generate", **body: Any) -> tuple[int, dict[str, Any]]:
    async with running.http.post(running.url + path, json={"text": "a", **body}) as reply:
        return reply.status, await reply.json()


@in_loop
async def test_the_prefill_workers_answer_comes_back_and_no_decode_worker_hears_of_it() -> None:
    async with deployment() as running:
        status, reply = await _generate(running, sampling_params=NOTHING)
        assert (status, reply["usage"]["prompt_tokens"]) == (200, 40)
        assert running["math-0"].bodies == []
        workers = {worker["id"]: worker for worker in (await running.state())["workers"]}
        assert (workers["p0"]["running"], workers["p0"]["calls"], workers["math-0"]["calls"]) == (0, 1, 0)


@in_loop
async def test_it_needs_no_decode_worker_that_is_up_and_waits_for_room() -> None:
    async with deployment(max_running_per_worker=1) as running:
        await running["math-0"].stop()
        running["p0"].prefill_s = 0.2
        replies = await asyncio.gather(*(_generate(running, sampling_params=NOTHING) for _ in range(3)))
        assert [status for status, _ in replies] == [200] * 3
        await running["p0"].stop()
        status, reply = await _generate(running, sampling_params=NOTHING)
        assert status in (502, 503)
        assert "prefill worker" in reply["error"]["message"]


@in_loop
async def test_another_prefill_worker_takes_it_when_one_fails() -> None:
    async with deployment(prefill=2) as running:
        running["p0"].status = running["p1"].status = 503
        assert (await _generate(running, sampling_params=NOTHING))[0] == 502
        running["p1"].status = 200
        assert (await _generate(running, sampling_params=NOTHING))[0] == 200


@in_loop
async def test_it_is_aborted_when_the_client_leaves_and_given_up_in_time() -> None:
    async with deployment(total_timeout_s=0.5) as running:
        running["p0"].prefill_s = 30
        call = asyncio.create_task(_generate(running, sampling_params=NOTHING))
        await until(lambda: running["p0"].running)
        call.cancel()
        await until(lambda: len(running["p0"].aborted) == 1)
        status, reply = await _generate(running, sampling_params=NOTHING)
        assert (status, "prefill worker p0 sent nothing within 0.5 s" in reply["error"]["message"]) == (504, True)
        await until(lambda: len(running["p0"].aborted) == 2)
        assert (await running.state())["workers"][0]["running"] == 0


@in_loop
async def test_the_address_names_the_module() -> None:
    async with deployment(decode=("math", "code")) as running:
        assert (await _generate(running, "/modules/code/generate"))[0] == 200
        assert len(running["code-1"].bodies) == 1
        status, reply = await _generate(running, "/modules/nope/generate")
        assert (status, reply["error"]["code"]) == (404, "model_not_found")
        for path in ("/modules/code/get_model_info", "/modules/base/model_info"):
            async with running.http.get(running.url + path) as answer:
                assert (await answer.json())["decode_modules"] == ["math", "code"]
        async with running.http.get(f"{running.url}/modules/nope/get_model_info") as answer:
            assert answer.status == 404
