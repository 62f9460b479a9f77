"""What comes over the wire: complete, with holes, or something else altogether."""

import functools
import math
from typing import Any

import orjson
import pytest

from benchmarks.tui.deployment import PaperDeployment
from prefillshare_tui.errors import ForeignServerError
from prefillshare_tui.overview import warning_of
from prefillshare_tui.parse import parse
from prefillshare_tui.snapshot import Admission, Eager, EagerJobs, Push, Snapshot, Store
from prefillshare_tui.summary import summary_text
from prefillshare_tui.view import view_since_start

URL = "http://127.0.0.1:30000"


def parsed(state: object) -> Snapshot:
    return parse(orjson.dumps(state), URL)


@functools.cache
def wire() -> bytes:
    deployment = PaperDeployment(num_workers=4)
    for _ in range(20):
        deployment.step()
    return orjson.dumps(deployment.state())


def complete() -> dict[str, Any]:
    return orjson.loads(wire())


def test_every_field_arrives() -> None:
    state = complete()
    state["workers"][0]["eager"] = {"tokens": 5, "hit_tokens": 4, "dropped": 1, "waiting": 2}
    state["workers"][0]["admission"] = {"waiting": 3, "held_back": 9, "overdue": 1, "sessions": 4, "held_tokens": 900}
    state["workers"][1]["push"] = {"pushed_tokens": 7, "push_hit_tokens": 6}
    state["workers"][0]["store"] |= {"store_hit_tokens": 8, "used_disk_bytes": 3, "damaged_pages": 2}
    state["workers"][2]["store"] = {"is_attached": False, "why_off": "no room: make some", "failures": 1}
    state["workers"][3]["store"] = {"is_attached": False}
    state["eager_jobs"] = {"done": 9, "dropped": 1, "cancelled": 2, "failed": 3, "pushed": 8, "waiting": 4}
    snapshot = parsed(state)
    assert (snapshot.name, snapshot.topology, snapshot.prefill_module) == ("tiny-agents", "disaggregated", "tiny-base")
    math_module, expected = snapshot.modules[0], state["modules"][0]
    for name in ("requests", "errors", "aborted", "running", "queued", "prompt_tokens", "generated_tokens"):
        assert getattr(math_module, name) == expected[name]
    ttft = math_module.latency["ttft"]
    assert math.isinf(ttft.bounds[-1])
    assert ttft.num_values == expected["latency"]["ttft"]["count"]
    worker = snapshot.workers[0]
    assert worker.kv is not None
    assert worker.handoff is not None
    assert worker.kv.shared_tokens == state["workers"][0]["kv"]["shared_tokens"]
    assert worker.handoff.bytes == state["workers"][0]["handoff"]["bytes"]
    assert worker.eager == Eager(tokens=5, hit_tokens=4, dropped=1, waiting=2)
    assert snapshot.workers[1].eager is None
    assert worker.admission == Admission(waiting=3, held_back=9, overdue=1, sessions=4, held_tokens=900)
    assert snapshot.workers[1].admission is None
    assert snapshot.workers[0].push is None
    assert snapshot.workers[1].push == Push(pushed_tokens=7, push_hit_tokens=6)
    stores = [worker.store for worker in snapshot.workers]
    assert stores[0] is not None
    assert (stores[0].why_off, stores[0].store_hit_tokens) == (None, 8)
    assert (stores[0].used_disk_bytes, stores[0].damaged_pages) == (3, 2)
    assert stores[1] is None
    assert stores[2:4] == [Store(why_off="no room: make some"), Store(why_off="the worker's log says why")]
    assert snapshot.eager_jobs == EagerJobs(done=9, dropped=1, cancelled=2, failed=3, pushed=8, waiting=4)
    parted = next(session for session in snapshot.sessions if session.divergence)
    assert parted.divergence is not None
    assert (parted.divergence.token, parted.divergence.modules) == (34, ("math", "tool"))
    assert snapshot.num_sessions == 12
    assert snapshot.events[0].kind == "worker_up"


def test_a_warning_about_a_module_stands_in_the_summary() -> None:
    state = complete()
    state["modules"][1]["warning"] = "training unknown: answers badly over shared KV"
    name = state["modules"][1]["name"]
    snapshot = parsed(state)
    assert f"! {name}: training unknown" in summary_text(view_since_start(snapshot))
    assert warning_of(snapshot) == f"{name}: training unknown: answers badly over shared KV"
    state["modules"][0]["warning"] = "objective full-ft"
    assert warning_of(parsed(state)).startswith(f"{state['modules'][0]['name']}, {name}: ")
    assert warning_of(parsed(complete())) == ""


def test_a_state_without_anything_but_time_is_shown() -> None:
    snapshot = parsed({"schema": 1, "time": 5.0})
    assert snapshot.modules == ()
    assert snapshot.repins is None
    assert "no prompt tokens yet" in summary_text(view_since_start(snapshot))


@pytest.mark.parametrize("junk", [None, "x", 7, True, [], {}, [None], ["x"], [{}]], ids=repr)
def test_any_field_may_be_null_or_of_another_type(junk: object) -> None:
    for name in complete():
        if name not in ("schema", "time"):
            parsed({**complete(), name: junk})
    for group in ("modules", "workers", "events"):
        for name in complete()[group][0]:
            state = complete()
            state[group][0][name] = junk
            assert summary_text(view_since_start(parsed(state)))
    for name in complete()["sessions"]["items"][0]:
        state = complete()
        state["sessions"]["items"][0][name] = junk
        assert len(parsed(state).sessions) == 12


def test_a_histogram_that_does_not_fit_together_is_left_out() -> None:
    state = complete()
    state["modules"][0]["latency"]["ttft"]["counts"].pop()
    assert "ttft" not in parsed(state).modules[0].latency
    assert "itl" in parsed(state).modules[0].latency


def test_names_cannot_move_the_cursor() -> None:
    state = complete()
    state["sessions"]["items"][0]["id"] = "a\x1b[2J\nb"
    assert parsed(state).sessions[0].id == "a?[2J?b"


@pytest.mark.parametrize("reply", [b"", b"<html>", b"[]", b"{}", b"3"])
def test_something_else_is_said_to_be_something_else(reply: bytes) -> None:
    with pytest.raises(ForeignServerError, match="not as a PrefillShare deployment: correct --url"):
        parse(reply, URL)


def test_another_schema_is_refused_with_the_fix() -> None:
    with pytest.raises(ForeignServerError, match="schema 2 and this dashboard schema 1: install the same version"):
        parsed({**complete(), "schema": 2})


def test_a_state_without_time_is_refused() -> None:
    with pytest.raises(ForeignServerError, match="does not tell its time"):
        parsed({**complete(), "time": None})


def test_tenants_are_told_where_there_are_some() -> None:
    assert parsed(complete()).tenants is None
    told = {
        "items": [{"name": "acme", "calls": 3, "kv_tokens": None, "refused": {"rate": 2, "door": 1}}, 5],
        "unknown_keys": 4,
        "problem": "gone",
    }
    snapshot = parsed(complete() | {"tenants": told})
    assert snapshot.tenants is not None
    (tenant,) = snapshot.tenants.items
    assert (tenant.name, tenant.calls, tenant.running, tenant.refused.total) == ("acme", 3, None, 3)
    assert (snapshot.tenants.unknown_keys, warning_of(snapshot)) == (4, "gone")
    text = summary_text(view_since_start(snapshot))
    assert "tenant             calls" in text
    assert "! gone" in text
    assert "tenant  " not in summary_text(view_since_start(parsed(complete())))
