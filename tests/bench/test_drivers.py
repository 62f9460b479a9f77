"""When calls are sent and what is written down, against a small HTTP server that misbehaves on request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.metrics.prefixes import prompts_of
from prefillshare.bench.records import RunRecord
from prefillshare.bench.systems.base import PrefillLeg, Running, Target
from prefillshare.bench.workloads.base import Session, Shape, Workload
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.errors import BenchError

MODULES = ("a", "b")
SHAPE = Shape(num_sessions=6, start_tokens=20, growth_tokens=3, output_tokens=(4,), turns=3, vocab_size=100)
WARM_UP = make_workload("react", Shape(num_sessions=1, start_tokens=2, turns=2, tags=("warm-up",)), MODULES)


@dataclass(slots=True)
class Server:
    """What it was asked, and how it is to answer."""

    prompts: list[list[int]] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    num_open: int = 0
    most_open: int = 0
    hits: list[int | None] = field(default_factory=list)
    """Cached tokens that the first answers report."""
    with_ids: bool = True
    """Whether pieces carry token ids."""
    per_piece: int = 1
    """Tokens of each piece."""
    fault: str = ""
    """`refuse`, `break` (in the middle), `short` (too few tokens), `error` (an error event), or what an event is."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Stream as many tokens as were asked for, after a moment in which other calls may come."""
        body = await request.json()
        self.prompts.append(body["prompt"])
        self.sessions.append(request.headers["X-Session-ID"])
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        try:
            await asyncio.sleep(0.01)
            return await self._stream(request, body)
        finally:
            self.num_open -= 1

    async def _stream(self, request: web.Request, body: dict) -> web.StreamResponse:
        if self.fault == "refuse":
            return web.Response(status=503, text="no worker")
        response = web.StreamResponse()
        await response.prepare(request)
        wanted = body["max_tokens"] - (1 if self.fault == "short" else 0)
        for first in range(0, wanted, self.per_piece):
            numbers = range(first, min(first + self.per_piece, wanted))
            ids = {"token_ids": [50 + number for number in numbers]} if self.with_ids else {}
            piece = {"text": "".join(f" {number}" for number in numbers), **ids}
            await _send(response, {"choices": [piece]})
            if self.fault == "break":
                assert request.transport is not None
                request.transport.abort()
                return response
            if self.fault == "error":
                await _send(response, {"error": {"message": "worker died"}})
                return response
            if self.fault not in ("", "short"):
                await response.write(f"data: {self.fault}\n\n".encode())
                return response
        usage: dict = {"prompt_tokens": len(body["prompt"]), "completion_tokens": wanted}
        if self.hits and (hits := self.hits.pop(0)) is not None:
            usage["prompt_tokens_details"] = {"cached_tokens": hits}
        await _send(response, {"usage": usage})
        await response.write(b"data: [DONE]\n\n")
        return response


async def _send(response: web.StreamResponse, event: dict) -> None:
    await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")


@asynccontextmanager
async def _serving(answer: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[Running]:
    app = web.Application()
    app.router.add_post("/v1/completions", answer)
    async with TestServer(app) as server:
        url = str(server.make_url("")).rstrip("/")
        yield Running(targets={name: Target(url=url, dialect="openai", model=name) for name in MODULES})


def _drive(server: Server, workload: Workload, load: Load) -> RunRecord:
    async def run() -> RunRecord:
        async with _serving(server.answer) as running:
            return await drive(running, workload, WARM_UP, load, seed=1, on_call=lambda call: None, timeout_s=120)

    return asyncio.run(run())


def test_a_closed_loop_keeps_so_many_sessions_open() -> None:
    server, workload = Server(), make_workload("react", SHAPE, MODULES)
    run = _drive(server, workload, Load(kind="closed", value=3))
    assert len(run.calls) == 18
    assert server.most_open == 3
    # Each call of a session is due at the end of the one before.
    calls = {(call.session, call.step): call for call in run.calls}
    for (session, step), call in calls.items():
        if step:
            assert call.due_s == calls[session, step - 1].end_s


def test_a_caller_who_thinks_calls_again_only_afterwards() -> None:
    workload = make_workload("react", replace(SHAPE, think_time_s=0.1), MODULES)
    run = _drive(Server(), workload, Load(kind="closed", value=6))
    calls = {(call.session, call.step): call for call in run.calls}
    for (session, step), call in calls.items():
        before_s = calls[session, step - 1].end_s if step else None
        assert before_s is None or call.due_s == before_s + 0.1
        assert call.first_s is not None
        assert call.first_s >= call.due_s


def test_answers_join_the_next_prompt() -> None:
    server, workload = Server(), make_workload("react", SHAPE, MODULES)
    run = _drive(server, workload, Load(kind="closed", value=1))
    first, second, _ = workload.sessions[0].steps
    asked = server.prompts[2:]  # after the warm-up's two calls
    assert asked[1] == [*first.added, 50, 51, 52, 53, *second.added]
    assert asked == prompts_of(workload, run.calls)
    assert server.sessions[2:5] == ["session-0"] * 3
    assert [len(call.gaps_s) for call in run.calls] == [3] * 18


def test_tokens_that_come_together_share_the_wait_and_those_with_the_first_have_none() -> None:
    run = _drive(Server(per_piece=2), make_workload("react", SHAPE, MODULES), Load(kind="closed", value=1))
    for call in run.calls:
        assert call.end_s is not None
        assert call.first_s is not None
        with_first, third, fourth = call.gaps_s
        assert with_first == 0
        assert third == fourth == pytest.approx((call.end_s - call.first_s) / 2)


def test_an_open_loop_sends_when_sessions_arrive() -> None:
    server, workload = Server(), make_workload("react", SHAPE, MODULES)
    run = _drive(server, workload, Load(kind="poisson", value=100))
    due = {call.session: call.due_s for call in run.calls if call.step == 0}
    assert [due[number] for number in range(6)] == poisson_arrivals(6, 100, seed=1)
    # Nothing is sent before it is due: an answer takes at least the server's pause.
    assert all(call.first_s is not None and call.first_s >= call.due_s + 0.01 for call in run.calls)


def test_a_trace_is_played_at_its_times_and_faster() -> None:
    steps = make_workload("react", SHAPE, MODULES).sessions[0].steps[:1]
    sessions = tuple(Session(steps=steps, arrival_s=arrival) for arrival in (0.0, 0.2, 0.2))
    workload = Workload(name="trace", modules=MODULES, sessions=sessions)
    started = time.monotonic()
    run = _drive(Server(), workload, Load(kind="timed", value=2))
    assert sorted(call.due_s for call in run.calls) == [0.0, 0.1, 0.1]
    assert time.monotonic() - started >= 0.1


def test_a_workload_without_times_needs_a_load() -> None:
    with pytest.raises(BenchError, match="give --rate or --concurrency"):
        _drive(Server(), make_workload("react", SHAPE, MODULES), Load(kind="timed", value=1))


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("refuse", "HTTP 503: no worker"),
        ("break", "Client"),
        ("short", "3 tokens came back instead of 4"),
        ("error", "worker died"),
        ("<html>", "this is no JSON object: b' <html>"),
        ("[1]", "this is no JSON object: b' [1]"),
        ('{"usage": "much"}', "usage.prompt_tokens is missing: {'usage': 'much'}"),
        ('{"usage": {"prompt_tokens": 3}}', "usage.completion_tokens is missing"),
    ],
)
def test_a_call_that_fails_ends_its_session_and_says_why(fault: str, reason: str) -> None:
    run = _drive(Server(fault=fault), make_workload("react", SHAPE, MODULES), Load(kind="closed", value=2))
    assert [call.step for call in run.calls] == [0] * 6
    assert all(call.error and reason in call.error for call in run.calls)
    assert all(call.latency_s is None and call.ttft_s is None for call in run.calls)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ({"text": "", "meta_info": {"prompt_tokens": 3}}, "output_ids is missing: {'text': ''"),
        ({"output_ids": [1]}, "meta_info is missing: {'output_ids': [1]}"),
        ({"output_ids": [1], "meta_info": {}}, "prompt_tokens is missing: {}"),
        ({"output_ids": [1], "meta_info": "much"}, "prompt_tokens is missing: 'much'"),
    ],
)
def test_an_event_of_sglang_that_lacks_something_ends_its_session_and_says_what(event: dict, reason: str) -> None:
    async def generate(request: web.Request) -> web.StreamResponse:
        await request.json()
        response = web.StreamResponse()
        await response.prepare(request)
        await _send(response, event)
        return response

    async def run() -> RunRecord:
        app = web.Application()
        app.router.add_post("/generate", generate)
        async with TestServer(app) as server:
            target = Target(url=str(server.make_url("")).rstrip("/"))
            running, load = Running(targets=dict.fromkeys(MODULES, target)), Load(kind="closed", value=2)
            workload = make_workload("react", SHAPE, MODULES)
            return await drive(running, workload, WARM_UP, load, seed=1, on_call=lambda call: None, timeout_s=120)

    calls = asyncio.run(run()).calls
    assert [call.step for call in calls] == [0] * 6
    assert all(call.error and reason in call.error for call in calls)


def test_a_server_that_names_no_ids_gets_made_up_tokens_of_the_right_number() -> None:
    server, workload = Server(with_ids=False), make_workload("react", SHAPE, MODULES)
    run = _drive(server, workload, Load(kind="closed", value=1))
    assert [len(call.output) for call in run.calls] == [4] * 18
    assert [len(prompt) for prompt in server.prompts[2:5]] == [20, 27, 34]
    assert all(len(call.gaps_s) == 3 for call in run.calls)


def test_of_a_server_that_reports_no_hits_nothing_is_known() -> None:
    run = _drive(Server(), make_workload("react", SHAPE, MODULES), Load(kind="closed", value=1))
    assert {call.cached_tokens for call in run.calls} == {None}


def test_a_server_that_reports_hits_leaves_them_out_where_there_are_none() -> None:
    run = _drive(Server(hits=[None] * 4 + [7]), make_workload("react", SHAPE, MODULES), Load(kind="closed", value=1))
    assert [call.cached_tokens for call in run.calls] == [0, 0, 7] + [0] * 15


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [((200, 200), None), ((500, 200), "HTTP 500: prefill"), ((200, 500), "HTTP 500: decode")],
)
def test_a_plain_pair_is_asked_on_both_legs(statuses: tuple[int, int], expected: str | None) -> None:
    rooms: list[list[int]] = [[], []]

    async def generate(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        leg = int(body["stream"])
        rooms[leg].append(body["bootstrap_room"])
        while len(rooms[0]) != len(rooms[1]):  # a refusal ends the other leg, which must have come before
            await asyncio.sleep(0.005)
        if statuses[leg] != 200:
            return web.Response(status=statuses[leg], text=("prefill", "decode")[leg])
        meta = {"prompt_tokens": len(body["input_ids"]), "cached_tokens": (5, 2)[leg]}
        if not leg:
            return web.json_response({"meta_info": meta})
        response = web.StreamResponse()
        await response.prepare(request)
        count = body["sampling_params"]["max_new_tokens"]
        await _send(response, {"output_ids": [9] * count, "meta_info": meta})
        return response

    async def run() -> RunRecord:
        app = web.Application()
        app.router.add_post("/generate", generate)
        async with TestServer(app) as server:
            url = str(server.make_url("")).rstrip("/")
            target = Target(url=url, prefill=PrefillLeg(url=url, bootstrap_port=1))
            running = Running(targets={"a": target}, kv_token_bytes=10)
            load = Load(kind="closed", value=1)
            return await drive(running, workload, warm_up, load, seed=1, on_call=lambda call: None, timeout_s=120)

    workload = make_workload("react", Shape(num_sessions=1, start_tokens=20, turns=1), ("a",))
    warm_up = make_workload("react", Shape(num_sessions=1, start_tokens=2, turns=1, tags=("warm-up",)), ("a",))
    call = asyncio.run(run()).calls[0]
    assert rooms[0] == rooms[1]
    assert call.error == expected
    if expected is None:
        # The prefill worker held 5 of 20 tokens, the decode worker 2.
        assert (call.cached_tokens, call.handoff_tokens, call.handoff_bytes) == (5, 18, 180)
