"""Workers that answer 200 with what is no answer, as what stands before one may do: an error that says so, counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from prefillshare.naming.alias import read_aliases
from prefillshare.routing.call.prefill_report import PrefillReport, read_report
from tests.routing.test_tenants import PATHS, ask, post, served, worker_document
from tests.routing.workers import Deployment, deployment, in_loop, until
from tests.support.classifiers import write_classifier
from tests.support.tenants import OPERATOR

PAGE = b"<html>It works!</html>"
CUT = b'{"object": "response", "usage": '
LIST = b'["a"]'
USAGE = b'{"object": "response", "status": "completed", "output": [], "usage": {"prompt_tokens": 1}}'
OUTPUT = b'{"object": "response", "status": "completed", "output": 3}'
TOO_MANY = 3
"""Failures in a row, after which a worker is paused."""
BESIDE = ("/model_info", "/server_info", "/modules")
PATIENT: dict[str, Any] = {
    "max_retries": 0,
    "breaker_failures": TOO_MANY,
    "breaker_open_s": 3600.0,
    "breaker_max_open_s": 3600.0,
}


def is_paused(running: Deployment, name: str) -> bool:
    worker = running.parts.pool.get(name)
    assert worker is not None
    return worker.breaker.state == "open"


async def fail(running: Deployment, worker: str, path: str, body: Any, key: str | None = None) -> str:
    """Ask until the worker is paused; return what its callers are told."""
    for _ in range(TOO_MANY):
        assert not is_paused(running, worker)
        status, told = await post(running, path, key, body)
        assert (status, told["error"].get("type")) in ((502, "worker_error"), (502, "api_error")), told
    await until(lambda: is_paused(running, worker))
    await until(lambda: all(found.num_running == 0 for found in running.parts.pool))
    return str(told["error"]["message"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("worker", ["p0", "math-0"])
@in_loop
async def test_a_page_is_no_answer_of_a_leg(path: str, worker: str) -> None:
    async with deployment(**PATIENT) as running:
        running[worker].garbage = PAGE
        told = await fail(running, worker, path, PATHS[path])
        assert f"{worker} answered with what is no JSON: b'<html>It works!" in told


@pytest.mark.parametrize("role", ["Prefill", "Decode"])
@in_loop
async def test_another_worker_answers_in_its_place(role: str) -> None:
    async with deployment(prefill=2, decode=("math", "math")) as running:
        first = (await running.chat()).headers[f"X-{role}-Worker"]
        running[first].garbage = PAGE
        reply = await running.chat()  # the prompt is where it was
        assert reply.status == 200
        assert reply.headers[f"X-{role}-Worker"] != first
        assert running.gateway.proxy.counters.retries == 1


@pytest.mark.parametrize("path", PATHS)
@in_loop
async def test_a_tenants_answer_has_to_be_read(path: str, tmp_path: Path) -> None:
    async with served(tmp_path, router=PATIENT, acme={}) as (running, keys):
        running["math-0"].garbage = CUT
        told = await fail(running, "math-0", path, PATHS[path], keys["acme"])
        assert "math-0 answered with what is no JSON" in told
        assert (await post(running, "/v1/completions", OPERATOR, {"model": "code", "prompt": "a"}))[0] == 200


@pytest.mark.parametrize("usage", ["no", {"completion_tokens": "many"}, {"completion_tokens": -3}, ["a"]])
@in_loop
async def test_a_tenant_is_not_charged_what_cannot_be_read(usage: object, tmp_path: Path) -> None:
    async with served(tmp_path, acme={}) as (running, keys):
        running["math-0"].answer = {"usage": usage}
        running["math-0"].pieces = [json.dumps({"usage": {}} | {"usage": usage})]
        for stream in (False, True):
            body = PATHS["/v1/completions"] | {"stream": stream}
            assert (await ask(running, "POST", "/v1/completions", keys["acme"], body))[0] == 200
        await until(lambda: running.gateway.proxy.counters.answered == 2)


@pytest.mark.parametrize("garbage", [CUT, LIST, USAGE, OUTPUT])
@in_loop
async def test_a_response_that_is_none_is_not_kept(garbage: bytes) -> None:
    async with deployment(**PATIENT) as running:
        running["math-0"].garbage = garbage
        await fail(running, "math-0", "/v1/responses", PATHS["/v1/responses"])
        assert len(running.gateway.responses.store) == 0


@pytest.mark.parametrize("garbage", [PAGE, CUT, LIST, USAGE, OUTPUT])
@in_loop
async def test_a_response_in_the_background_that_is_none_has_failed(garbage: bytes) -> None:
    async with deployment(**PATIENT) as running:
        running["math-0"].garbage = garbage
        for _ in range(TOO_MANY):
            begun = (await post(running, "/v1/responses", None, {"model": "math", "input": "a", "background": True}))[1]
            url = f"{running.url}/v1/responses/{begun['id']}"
            while (told := await (await running.http.get(url)).json())["status"] in ("queued", "in_progress"):
                pass
            assert told["status"] == "failed"
            assert "math-0 answered with what is no" in told["error"]["message"]
        await until(lambda: is_paused(running, "math-0"))


@pytest.mark.parametrize(
    "data", ["no JSON", '["a"]', "{}", '{"response": 3}', '{"response": {"usage": {"prompt_tokens": 1}}}']
)
@pytest.mark.parametrize("num_before", [0, 2])
@in_loop
async def test_a_stream_of_a_response_that_cannot_be_read_ends_with_an_error(data: str, num_before: int) -> None:
    async with deployment(**PATIENT) as running:
        event = f"event: response.completed\ndata: {data}\n\n".encode()
        before = b'event: response.output_text.delta\ndata: {"delta": "a"}\n\n' * num_before
        running["math-0"].garbage = before + event
        for _ in range(TOO_MANY):
            body = PATHS["/v1/responses"] | {"stream": True}
            async with running.http.post(f"{running.url}/v1/responses", json=body) as reply:
                told = await reply.read()
            assert b"the answer broke off: decode worker math-0" in told.split(b"\n\n")[-2]
        await until(lambda: is_paused(running, "math-0"))
        assert len(running.gateway.responses.store) == 0


@in_loop
async def test_states_that_are_none_choose_no_module(tmp_path: Path) -> None:
    write_classifier(tmp_path, ("math", "code"))
    aliases = read_aliases({"auto": {"default": "math", "classifier": str(tmp_path)}})
    settings = {"aliases": aliases, "modules": ("math", "code")}
    async with deployment(decode=("math", "code"), settings=settings, **PATIENT) as running:
        told = await fail(running, "p0", "/v1/completions", {"model": "auto", "prompt": "a"})
        assert "prefill worker p0 told no hidden states of the prompt" in told


@pytest.mark.parametrize("path", ["/tokenize", *BESIDE])
@in_loop
async def test_what_is_asked_beside_calls_is_answered_by_a_worker_that_can(path: str) -> None:
    async with deployment(prefill=2, **PATIENT) as running:
        running["p0"].garbage = PAGE
        running["p1"].garbage = b'{"chat_template": "t", "model_path": "p"}'

        async def ask() -> tuple[int, Any]:
            method, body = ("POST", {"prompt": "a"}) if path == "/tokenize" else ("GET", None)
            async with running.http.request(method, running.url + path, json=body) as reply:
                return reply.status, await reply.json()

        status, told = await ask()
        assert status == 200
        assert "t" in told.values() or "p" in told.values()
        assert running.parts.pool.get("p0").num_failed == 1
        running["p1"].garbage = PAGE if path == "/tokenize" else LIST
        status, told = await ask()
        assert (status, told["error"]["code"]) == (502, "worker_failed")
        assert "prefill worker p1 answered with what is no JSON" in told["error"]["message"]
        assert path in told["error"]["message"]
        await ask()
        assert is_paused(running, "p0")


@pytest.mark.parametrize("garbage", [PAGE, LIST, b"{}", b'{"path": 3}'])
@in_loop
async def test_a_worker_that_says_nothing_of_a_reload_is_named(garbage: bytes) -> None:
    async with deployment(settings={"admin_key": "a"}) as running:
        worker = running["math-0"]
        worker.is_adapter = True
        running.parts.pool.get("math-0").set_state("down")
        await running.is_up("math-0")
        worker.garbage = garbage
        status, told = await post(running, "/modules/math/reload", "a", None)
        assert (status, told["error"]["code"]) == (502, "worker_failed")
        assert "decode worker math-0" in told["error"]["message"]
        assert running.parts.pool.get("math-0").num_failed == 1


@pytest.mark.parametrize("told", [{}, {"started": 1.0, "workers": []}, {"workers": "none"}, ["a"]])
@in_loop
async def test_numbers_that_cannot_be_read_are_left_out_and_the_others_told(
    told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with deployment() as running:
        running["p0"].told, running["math-0"].told = told, worker_document("math-0")
        for _ in range(2):
            async with running.http.get(f"{running.url}/deployment/state") as reply:
                assert reply.status == 200
                workers = {worker["id"]: worker for worker in (await reply.json())["workers"]}
            async with running.http.get(f"{running.url}/metrics") as reply:
                assert reply.status == 200
        assert (workers["p0"]["pid"], workers["math-0"]["pid"]) == (None, 1)
        assert len([record for record in caplog.records if "its numbers are left out" in record.message]) == 1


@pytest.mark.parametrize("half", ["workers", "modules", "held"])
@in_loop
async def test_numbers_that_are_half_there_count_for_nothing(half: str) -> None:
    """A worker of another version may lack what is read last."""
    async with deployment() as running:
        document = worker_document("math-0")
        document["workers"][0]["generated_tokens"] = 7
        lacking = {"workers": [{**document["workers"][0], "handoff": {"tokens": "many"}}]}
        lacking |= {"modules": [{"name": "math"}], "held": [{"owner": "x"}]}
        running["math-0"].told = document | {half: lacking[half]}
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            assert reply.status == 200
        running["math-0"].told = document
        async with running.http.get(f"{running.url}/deployment/state") as reply:
            told = await reply.json()
        assert next(worker for worker in told["workers"] if worker["id"] == "math-0")["generated_tokens"] == 7


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"3",
        b'"text"',
        b'[3, "text", null]',
        b'{"usage": "many", "metadata": 3, "meta_info": [1]}',
        b'{"usage": {"prompt_tokens": "many", "prompt_tokens_details": 3, "cached_tokens": -1}}',
        b'{"meta_info": {"prompt_tokens": -5, "prefillshare": [3, {"own_hit_tokens": "x", "prefill_seconds": "y"}]}}',
        b'{"metadata": {"prefillshare": {"handoff_seconds": -1, "choice_tokens": 1.5}}}',
    ],
)
def test_a_report_that_cannot_be_read_tells_nothing(content: bytes) -> None:
    assert read_report(content) == PrefillReport()
