"""Answers before they come back: while a session of three modules waits, only what nobody wrote is computed."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import MODULES, Cluster
from tests.support.monitoring import counted, module_of, read_state, worker_of
from tests.support.pd import TINY
from tests.support.reference import Reference

NUM_ROUNDS = 3
ANSWER_TOKENS = 40
NEW = tuple(range(20, 28))
"""What the session adds between two calls."""
PROMPT = tuple(10 + (13 * i) % 900 for i in range(120))
NUM_TRUSTED = 15
"""Calls after which a session's next module is predicted, whatever earlier sessions have taught the router: at most one
guess per module is wrong, and three right ones of four are enough."""
DEADLINE_S = 300.0


@pytest.fixture(scope="module")
def reference() -> Reference:
    """The three modules in plain transformers + peft."""
    return Reference(TINY / "base", {name: TINY / name for name in MODULES})


@pytest.fixture
def empty(cluster: Cluster) -> Cluster:
    """The deployment with empty caches."""
    forget(cluster)
    return cluster


def forget(cluster: Cluster) -> None:
    """Empty the caches when no job is left: one that ends later would be taken for that of a later call."""
    cluster.wait(lambda: state(cluster)["eager_jobs"]["waiting"] == 0, "all jobs were over")
    cluster.wait(lambda: cluster.http.post("/flush_cache").status_code == 200, "the caches were empty")


def state(cluster: Cluster) -> dict[str, Any]:
    return read_state(cluster.http)


def jobs(told: dict[str, Any]) -> dict[str, int]:
    return {name: count for name, count in told["eager_jobs"].items() if name != "waiting"}


def pushes(told: dict[str, Any]) -> tuple[int, int]:
    """Tokens that were pushed to all decode workers, and those of them that calls have hit."""
    parts = [worker_of(told, f"decode-{module}-0")["push"] for module in MODULES]
    return sum(part["pushed_tokens"] for part in parts), sum(part["push_hit_tokens"] for part in parts)


def settled(cluster: Cluster, before: dict[str, Any]) -> dict[str, Any]:
    """The state when one more call is counted with its prompt, and the job after it is over."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        after = state(cluster)
        rises = counted(before, after).values()
        num_jobs = sum(jobs(after).values()) - jobs(after)["pushed"]
        has_ended = [rise[0] for rise in rises] == [1] and all(rise[3] for rise in rises)
        if has_ended and num_jobs > sum(jobs(before).values()) - jobs(before)["pushed"]:
            return state(cluster)
        assert time.monotonic() < deadline, (rises, jobs(after))
        time.sleep(0.02)


def computed(before: dict[str, Any], after: dict[str, Any], module: str) -> int:
    """Prompt tokens of the module's call that were computed while it waited."""
    rises = [
        module_of(after, module)[name] - module_of(before, module)[name]
        for name in ("prompt_tokens", "own_hit_tokens", "cross_hit_tokens")
    ]
    return rises[0] - rises[1] - rises[2]


def generate(
    cluster: Cluster, module: str, prompt: list[int], session: str, num_tokens: int = ANSWER_TOKENS
) -> dict[str, Any]:
    params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    body = {"model": module, "input_ids": prompt, "sampling_params": params}
    reply = cluster.http.post("/generate", json=body, headers={"X-Session-ID": session})
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_a_session_in_turns_waits_for_nothing_but_what_is_new(empty: Cluster, reference: Reference) -> None:
    for module in islice(cycle(MODULES), NUM_TRUSTED):
        generate(empty, module, [*PROMPT[:8]], "in-turns", num_tokens=1)
    forget(empty)
    context = list(PROMPT)
    first = before = state(empty)
    for number, module in enumerate(MODULES * NUM_ROUNDS):
        answer = generate(empty, module, context, "in-turns")
        after = settled(empty, before)
        tokens = answer["output_ids"]
        assert tokens == reference.ask(module, context, ANSWER_TOKENS, draft=tokens).tokens
        assert computed(before, after, module) == (len(NEW) if number else len(PROMPT))
        if number:
            # What the session wrote since this module's last turn was there, too; x_n of a push is not kept.
            assert answer["meta_info"]["prefillshare"][0]["handoff_tokens"] == len(NEW) + 1
        context += [*answer["output_ids"], *NEW]
        before = after
    assert jobs(before)["done"] - jobs(first)["done"] == len(MODULES) * NUM_ROUNDS
    # The last push is for a call that never came.
    assert jobs(before)["pushed"] - jobs(first)["pushed"] == len(MODULES) * NUM_ROUNDS
    num_pushed, num_hit = (now - then for now, then in zip(pushes(before), pushes(first), strict=True))
    # Since a module's last prompt: three answers, and what the session said between them.
    per_push = len(MODULES) * (ANSWER_TOKENS + len(NEW)) - len(NEW)
    assert num_hit >= len(MODULES) * (NUM_ROUNDS - 1) * per_push
    assert num_pushed >= num_hit + per_push


def test_sessions_in_turns_outlive_the_workers(empty: Cluster, reference: Reference) -> None:
    """A worker dies while it computes ahead or is pushed to: that is nobody's failure, and spoils no later answer."""
    asked: list[tuple[str, list[int], list[int]]] = []

    def follow(seed: int) -> None:
        context = [token + seed for token in PROMPT]
        for module in MODULES * NUM_ROUNDS:
            answer = generate_in_the_end(empty, module, context, f"outlives-{seed}")
            asked.append((module, list(context), answer))
            context += [*answer, *NEW]
            time.sleep(0.2)  # so that there are jobs

    with ThreadPoolExecutor(2) as pool:
        sessions = [pool.submit(follow, seed) for seed in (1, 2)]
        for number, name in enumerate(("decode-tool-0", "prefill-0", "router", "decode-math-0"), start=1):
            empty.wait(lambda number=number: len(asked) >= 3 * number, "the sessions went on")
            empty.kill(name)
        for session in sessions:
            session.result()
    assert [answer for _, _, answer in asked] == [
        reference.ask(module, prompt, ANSWER_TOKENS, draft=answer).tokens for module, prompt, answer in asked
    ]
    empty.wait(lambda: jobs(state(empty))["done"] > 0, "answers were computed ahead again")
    empty.wait(lambda: empty.http.post("/flush_cache").status_code == 200, "all rows were given back")


def generate_in_the_end(cluster: Cluster, module: str, prompt: list[int], session: str) -> list[int]:
    """The answer, asked for until a worker is there to give it."""
    found: list[int] = []

    def ask() -> bool:
        try:
            found[:] = generate(cluster, module, prompt, session)["output_ids"]
        except (AssertionError, httpx.TransportError):
            return False
        return True

    cluster.wait(ask, f"{module} answered")
    return found


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_chat_in_turns_finds_its_answers(empty: Cluster, is_stream: bool) -> None:
    messages = [{"role": "user", "content": "Omar 3 boxes, beads 7 per box " * 5}]
    before = state(empty)
    for number, module in enumerate(MODULES):
        body = {"model": module, "messages": messages, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
        body |= {"temperature": 0, "stream": is_stream}
        reply = empty.http.post("/v1/chat/completions", json=body, headers={"X-Session-ID": f"chat-{is_stream}"})
        assert reply.status_code == 200, reply.text
        after = settled(empty, before)
        if number:
            # The user's words, and what the template puts around both of them.
            assert computed(before, after, module) < ANSWER_TOKENS / 2
        messages += [{"role": "assistant", "content": read_text(reply.text, is_stream)}]
        messages += [{"role": "user", "content": "and eggs?"}]
        before = after


def read_text(reply: str, is_stream: bool) -> str:
    """What was said, as a client reads it."""
    if not is_stream:
        text: str = json.loads(reply)["choices"][0]["message"]["content"]
        return text
    events = [line.removeprefix("data: ") for line in reply.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"].get("content") for event in events for choice in json.loads(event)["choices"]]
    return "".join(filter(None, deltas))
