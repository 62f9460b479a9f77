"""A push gets rows of a decode worker only while calls have enough, and gives them back when a call finds none."""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from prefillshare.contract import PUSH_RID_PREFIX
from tests.cluster.conftest import KV_TOKENS, Cluster

LENGTH = 3900
"""Three prompts of it fill a worker, four do not fit."""
MODULE = "math"
WORKER = "decode-math-0"

_rooms = itertools.count(random.randint(1, 2**62))


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    """For requests that wait."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


def prompt(seed: int) -> list[int]:
    """A prompt that has nothing in common with another one."""
    chance = random.Random(seed)
    return [chance.randrange(10, 500) for _ in range(LENGTH)]


def post(cluster: Cluster, path: str, body: dict[str, Any]) -> httpx.Response:
    """Ask the decode worker itself."""
    planned = next(planned for planned in cluster.running.workers if planned.worker.name == WORKER)
    key = {"Authorization": f"Bearer {planned.command.api_key}"}
    return httpx.post(f"{planned.place.url}{path}", json=body, headers=key, timeout=300)


def push_without_prefill(cluster: Cluster, seed: int) -> httpx.Response:
    """The decode leg of a push alone: it gets rows, and waits for KV that does not come."""
    prefill = next(planned for planned in cluster.running.workers if planned.worker.name == "prefill-0")
    body = {
        "input_ids": prompt(seed),
        "sampling_params": {"max_new_tokens": 0},
        "rid": f"{PUSH_RID_PREFIX}{seed}",
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": prefill.place.bootstrap_port,
        "bootstrap_room": next(_rooms),
    }
    return post(cluster, "/generate", body)


def private_tokens(cluster: Cluster) -> int:
    """Tokens of the decode worker's pool that belong to requests."""
    told = cluster.ask_worker(WORKER, "GET", "/deployment/state").json()["workers"][0]
    return told["kv"]["private_tokens"] if told["kv"] else -1


def hold(cluster: Cluster, threads: ThreadPoolExecutor, *seeds: int) -> list[Future[httpx.Response]]:
    """Pushes that have their rows, all at the same time.

    On a machine that stands still for seconds the decode worker takes the prefill worker for gone, and ends them: they
    are sent again.
    """
    held: dict[int, Future[httpx.Response]] = {}

    def are_held() -> bool:
        for seed in seeds:
            if seed not in held or held[seed].done():
                held[seed] = threads.submit(push_without_prefill, cluster, seed)
        return private_tokens(cluster) >= len(seeds) * LENGTH

    cluster.wait(are_held, "the pushes had rows")
    return list(held.values())


def ask(cluster: Cluster, seed: int) -> httpx.Response:
    """A call with a long prompt."""
    body = {"input_ids": prompt(seed), "lora_path": MODULE, "sampling_params": {"max_new_tokens": 8}}
    return cluster.http.post("/generate", json=body)


def test_a_call_that_finds_no_room_gets_that_of_a_push(cluster: Cluster, threads: ThreadPoolExecutor) -> None:
    [held] = hold(cluster, threads, 1)
    replies = list(threads.map(lambda seed: ask(cluster, seed), (2, 3, 4)))
    assert [reply.status_code for reply in replies] == [200, 200, 200], [reply.text for reply in replies]
    assert held.result().status_code in (500, 503)
    cluster.wait(lambda: private_tokens(cluster) == 0, "all rows were given back")


def test_a_push_that_would_leave_too_little_is_ended_at_once(cluster: Cluster, threads: ThreadPoolExecutor) -> None:
    cluster.wait(lambda: private_tokens(cluster) == 0, "all rows were given back")
    assert KV_TOKENS - 3 * LENGTH < KV_TOKENS / 8
    while True:
        held = hold(cluster, threads, 10, 11)
        refused = push_without_prefill(cluster, 20)
        if not any(future.done() for future in held):
            break  # else their rows may have been free when it came
    assert (refused.status_code, "calls need the room" in refused.text) == (503, True)
    for seed in (10, 11):
        assert post(cluster, "/abort_request", {"rid": f"{PUSH_RID_PREFIX}{seed}"}).status_code == 200
    assert all(future.result().status_code >= 400 for future in held)
    cluster.wait(lambda: private_tokens(cluster) == 0, "all rows were given back")
    assert ask(cluster, 30).status_code == 200
