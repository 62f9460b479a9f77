"""What the router counts for the whole deployment, against what a scripted session must give.

A prefill worker caches all n tokens of a prompt and matches at most n-1 of the next one; of a hit each token belongs
to the decode module for which it was prefilled.
"""

import json
import os
import re
import signal
import time

import httpx
import pytest

from tests.cluster.conftest import MODULES, Cluster
from tests.support.monitoring import (
    GRAFANA,
    METRIC,
    SAMPLES,
    Step,
    counted,
    documented_metrics,
    module_of,
    names_in,
    observed,
    read_state,
    scraped,
    worker_of,
)
from tests.support.state_document import mistakes_in

NUM_TOKENS = 5
DEADLINE_S = 300.0
CONTEXT = tuple(10 + (7 * i) % 900 for i in range(100))
OTHER = tuple(20 + (11 * i) % 900 for i in range(40))
SCRIPT = (
    Step(module="math", prompt=CONTEXT[:60], own=0, cross=0),
    Step(module="tool", prompt=CONTEXT[:80], own=0, cross=60),
    Step(module="math", prompt=CONTEXT, own=60, cross=20),
    Step(module="tool", prompt=CONTEXT, own=20, cross=79),
    Step(module="code", prompt=OTHER, own=0, cross=0),
    Step(module="code", prompt=OTHER, own=39, cross=0),
)
OF_OTHER_DEPLOYMENTS = {
    "prefillshare_forwarded_total",
    "prefillshare_choices_total",
    "prefillshare_choice_seconds",
    "prefillshare_role_moves_total",
    "prefillshare_waiting_for_memory",
    "prefillshare_held_back_total",
    "prefillshare_held_back_overdue_total",
    "prefillshare_sessions_under_way",
    "prefillshare_held_tokens",
    "prefillshare_tenant_calls_total",
    "prefillshare_tenant_calls_running",
    "prefillshare_tenant_prompt_tokens_total",
    "prefillshare_tenant_cached_tokens_total",
    "prefillshare_tenant_generated_tokens_total",
    "prefillshare_tenant_refusals_total",
    "prefillshare_tenant_kv_tokens",
    "prefillshare_unknown_keys_total",
    "prefillshare_tenants_file_usable",
}
"""Of several routers, where roles follow the load, where sessions wait for memory, of
classifiers, and of tenants."""
HANDOFF_TOKENS = 60 + 80 + (100 - 59) + (100 - 79) + 40 + (40 - 39)
"""A decode worker holds x_1..x_{n-1} of its module's earlier prompts."""


def state(cluster: Cluster) -> dict:
    found = read_state(cluster.http)
    assert mistakes_in(found) == []
    return found


def settled(cluster: Cluster, before: dict, num_requests: int) -> dict:
    """The state when so many further requests are counted with their prompts, at most one of each module.

    Of two prompts of one module nobody could tell whether both are counted.
    """
    deadline = time.monotonic() + DEADLINE_S
    while True:
        after = state(cluster)
        found = counted(before, after)
        done = sum(rise[0] for rise in found.values())
        if done == num_requests and all(_is_whole(before, after, module, rise) for module, rise in found.items()):
            return state(cluster)
        assert time.monotonic() < deadline, found


def _is_whole(before: dict, after: dict, module: str, rise: tuple[int, ...]) -> bool:
    requests, errors, aborted, prompt_tokens, *_ = rise
    refused = module_of(after, module)["refused"] - module_of(before, module)["refused"]
    return requests == errors + aborted + refused or prompt_tokens > 0


def ask(cluster: Cluster, step: Step, session: str, **fields: object) -> httpx.Response:
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    body = {"model": step.module, "input_ids": list(step.prompt), "sampling_params": params, **fields}
    return cluster.http.post("/generate", json=body, headers={"X-Session-ID": session})


def scrape(cluster: Cluster) -> str:
    """The metrics when every worker has added its own: one that is too busy to answer in time is left out."""
    wanted, deadline = {planned.worker.name for planned in cluster.running.workers}, time.monotonic() + DEADLINE_S
    while True:
        text = cluster.http.get("/metrics").text
        told = {dict(labels)["worker"] for name, labels in scraped(text) if name == "sglang:prompt_tokens_total"}
        if told >= wanted:
            return text
        assert time.monotonic() < deadline, f"{wanted - told} told nothing"
        time.sleep(0.1)


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    """The deployment with empty caches."""
    deadline = time.monotonic() + DEADLINE_S
    while (reply := cluster.http.post("/flush_cache")).status_code != 200:
        assert time.monotonic() < deadline, reply.text
    return cluster


def test_a_scripted_session_is_counted_exactly(empty: Cluster) -> None:
    before = after = state(empty)
    for number, step in enumerate(SCRIPT):
        reply = ask(empty, step, "script", stream=number % 2 == 1)
        assert reply.status_code == 200, reply.text
        # Each prefill leg has reported before the next call matches what it cached.
        after = settled(empty, after, 1)
    found = counted(before, after)
    for module in MODULES:
        steps = [step for step in SCRIPT if step.module == module]
        prompt_tokens = sum(len(step.prompt) for step in steps)
        own, cross = sum(step.own for step in steps), sum(step.cross for step in steps)
        num_calls = len(steps)
        assert found[module] == (num_calls, 0, 0, prompt_tokens, own, cross, num_calls * NUM_TOKENS)
        seen = {name: observed(before, after, module, name) for name in ("ttft", "itl", "e2e", "queue")}
        assert seen == {"ttft": num_calls, "itl": num_calls * (NUM_TOKENS - 1), "e2e": num_calls, "queue": num_calls}

    prefill_before, prefill = (worker_of(state, "prefill-0") for state in (before, after))
    cached = sum(step.own + step.cross for step in SCRIPT)
    assert prefill["prompt_tokens"] - prefill_before["prompt_tokens"] == sum(len(step.prompt) for step in SCRIPT)
    assert prefill["cached_tokens"] - prefill_before["cached_tokens"] == cached
    assert prefill["handoff"]["tokens"] - prefill_before["handoff"]["tokens"] == HANDOFF_TOKENS
    assert prefill["handoff"]["calls"] - prefill_before["handoff"]["calls"] == len(SCRIPT)
    assert prefill["handoff"]["seconds"] > prefill_before["handoff"]["seconds"]
    # All workers run on this machine, and have no GPU.
    for name in ("calls", "bytes"):
        by_memory = prefill["handoff"][f"memory_{name}"] - prefill_before["handoff"][f"memory_{name}"]
        assert by_memory == prefill["handoff"][name] - prefill_before["handoff"][name]
    received = sum(
        worker_of(state, f"decode-{module}-0")["handoff"]["tokens"] * sign
        for module in MODULES
        for state, sign in ((after, 1), (before, -1))
    )
    assert received == HANDOFF_TOKENS
    assert prefill["kv"]["shared_tokens"] == len(CONTEXT) + len(OTHER)
    assert worker_of(after, "decode-tool-0")["kv"]["shared_tokens"] == len(CONTEXT) - 1


def test_one_scrape_tells_the_same_with_the_workers_own_metrics(empty: Cluster) -> None:
    before = state(empty)
    assert ask(empty, SCRIPT[0], "scrape").status_code == 200
    after = settled(empty, before, 1)
    samples = scraped(scrape(empty))
    for module in after["modules"]:
        for name, sample in SAMPLES.items():
            assert samples[sample, (("module", module["name"]),)] == module[name]
    workers = {
        (labels["worker"], labels["role"], labels["module"])
        for (name, pairs) in samples
        if name == "sglang:prompt_tokens_total" and (labels := dict(pairs))
    }
    assert workers == {("prefill-0", "prefill", ""), *((f"decode-{name}-0", "decode", name) for name in MODULES)}


def test_sessions_events_and_the_key(empty: Cluster) -> None:
    roles = {"math": (3, 4, 5), "tool": (3, 7, 8)}
    before = state(empty)
    for module, role in roles.items():
        assert ask(empty, Step(module=module, prompt=role + CONTEXT, own=0, cross=0), "front").status_code == 200
    after = settled(empty, before, 2)
    session = next(session for session in after["sessions"]["items"] if session["id"] == "front")
    assert session["modules"] == ["math", "tool"]
    assert session["divergence"]["token"] <= 2
    assert session["divergence"]["fraction"] < 0.05
    assert {event["kind"] for event in after["events"]} >= {"worker_joined", "worker_up", "flush"}


def test_a_refusal_by_the_workers_is_no_error(empty: Cluster) -> None:
    before = state(empty)
    reply = ask(empty, SCRIPT[0], "wrong", sampling_params={"max_new_tokens": -1})
    assert reply.status_code == 400, reply.text
    after = settled(empty, before, 1)
    assert counted(before, after) == {"math": (1, 0, 0, 0, 0, 0, 0)}
    assert module_of(after, "math")["refused"] == module_of(before, "math")["refused"] + 1


def test_a_restart_is_counted_and_nothing_is_counted_twice(empty: Cluster) -> None:
    before = state(empty)
    assert ask(empty, SCRIPT[4], "restart").status_code == 200
    told = settled(empty, before, 1)
    os.kill(worker_of(told, "decode-code-0")["pid"], signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_S
    while True:
        reply = empty.http.get("/metrics", timeout=60)
        assert reply.status_code == 200, "a dead worker must not block a scrape"
        now = state(empty)
        worker = worker_of(now, "decode-code-0")
        if worker["restarts"] == worker_of(told, "decode-code-0")["restarts"] + 1:
            break
        assert time.monotonic() < deadline, worker
    assert any(event["kind"] == "restart" and event["subject"] == "decode-code-0" for event in now["events"])
    assert module_of(now, "code")["generated_tokens"] == module_of(told, "code")["generated_tokens"]
    while ask(empty, SCRIPT[4], "restart").status_code != 200:
        assert time.monotonic() < deadline
    rise = module_of(state(empty), "code")["generated_tokens"] - module_of(told, "code")["generated_tokens"]
    assert rise == NUM_TOKENS


def test_the_dashboard_and_the_docs_name_only_what_is_there(empty: Cluster) -> None:
    before = state(empty)
    assert ask(empty, SCRIPT[0], "names").status_code == 200
    settled(empty, before, 1)
    there = names_in(scrape(empty))
    board = json.loads((GRAFANA / "prefillshare.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    queries = [variable["query"] for variable in board["templating"]["list"]]
    named = {name for text in expressions + queries for name in METRIC.findall(text)}
    assert len(named) > 20
    assert named <= there | documented_metrics(with_store=True) | OF_OTHER_DEPLOYMENTS

    families = documented_metrics(with_store=False)
    ours = {re.sub("_(bucket|sum|count)$", "", name) for name in there if name.startswith("prefillshare_")}
    kv = {name for name in ours if name.startswith("prefillshare_kv_")}
    known = families - kv - OF_OTHER_DEPLOYMENTS
    assert known == ours - kv, "docs/monitoring.md lists every metric of ours and no other"


def test_every_panel_has_its_place_and_says_what_it_means() -> None:
    board = json.loads((GRAFANA / "prefillshare.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    assert all(panel["description"] and panel["targets"] for panel in panels)
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
