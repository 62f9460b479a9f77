"""Real processes are killed and stopped: every call ends, survivors serve on, what died comes back.

The deployment has a store, and computes what follows each answer ahead, however short it is.
"""

import json
import os
import random
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import zmq

from prefillshare.config import Store
from prefillshare.peer_keys import PeerKeys, secure_client
from tests.cluster.conftest import CALL_S, MODULES, Cluster, configured, running_cluster
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state, worker_of
from tests.support.otlp import Receiver
from tests.support.stores import PAGE_TOKENS

LONG = {"max_tokens": 3000, "ignore_eos": True}
GUARD = b"NixlMsgGuard"
"""First frame of what a decode worker says to a prefill worker."""


@pytest.fixture(scope="module")
@starts_engine
def cluster(traces: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    config = configured(traces)
    prefill = replace(config.prefill, eager_min_tokens=1)
    config = replace(config, name="faults", prefill=prefill, store=Store(memory="192 MiB"))
    with running_cluster(config, tmp_path_factory.mktemp("faults")) as cluster:
        # Only answers of a session are computed ahead, and handed to the module that it will call next.
        cluster.http.headers["X-Session-ID"] = "faults"
        yield cluster


def _serves(cluster: Cluster, module: str) -> bool:
    try:
        return cluster.complete(module).status_code == 200
    except httpx.TransportError:
        return False


@contextmanager
def _stopped(cluster: Cluster, name: str) -> Iterator[None]:
    pid = cluster.process(name).pid
    assert pid is not None
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(pid, signal.SIGCONT)


@contextmanager
def _asking(cluster: Cluster, body: dict[str, Any]) -> Iterator[None]:
    """Send a call whose client leaves at the end of the block."""
    port, content = int(cluster.running.url.rpartition(":")[2]), json.dumps(body).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: router\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield


def test_a_decode_worker_that_dies_in_a_stream_ends_its_calls_only(cluster: Cluster) -> None:
    body = {"model": "math", "prompt": "Omar 3 boxes", "temperature": 0, "stream": True, **LONG}
    with cluster.http.stream("POST", "/v1/completions", json=body) as reply:
        lines = reply.iter_lines()
        assert next(lines).startswith("data: ")
        cluster.kill("decode-math-0")
        rest = [line for line in lines if line]
    assert rest[-1] != "data: [DONE]"
    assert any("error" in line for line in rest)
    assert _serves(cluster, "tool")
    assert _serves(cluster, "code")
    cluster.wait(lambda: _serves(cluster, "math"), "math is back")
    assert any("decode-math-0 ended: killed by signal 9" in text for text in cluster.said)


def test_a_decode_worker_that_comes_back_is_written_to_in_its_new_memory(cluster: Cluster) -> None:
    """Its old memory, in which nobody reads any more, is given back by the prefill worker."""

    def handoffs() -> tuple[int, int]:
        told = worker_of(read_state(cluster.http), "prefill-0")["handoff"]
        return told["memory_calls"], told["calls"] - told["memory_calls"]

    prompt = "9 beads " * 40
    answer = cluster.complete("math", prompt).json()["choices"][0]["text"]
    cluster.wait(lambda: len(_mapped_pools(cluster)) <= len(MODULES), "memory of earlier ones is given back")
    mapped = _mapped_pools(cluster)
    cluster.kill("decode-math-0")
    cluster.wait(lambda: _serves(cluster, "math"), "math is back")
    by_memory, otherwise = handoffs()
    assert cluster.complete("math", prompt).json()["choices"][0]["text"] == answer
    now_by_memory, now_otherwise = handoffs()
    assert now_by_memory > by_memory
    assert now_otherwise == otherwise
    cluster.wait(lambda: len(_mapped_pools(cluster)) == len(mapped), "the old memory is given back")
    assert _mapped_pools(cluster) != mapped


def _mapped_pools(cluster: Cluster) -> set[str]:
    """The decode workers' memories that the prefill worker has mapped, by the numbers of their files."""
    pid = cluster.process("prefill-0").pid
    assert pid is not None
    lines = [
        line.split()
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    ]
    return {fields[4] for fields in lines if len(fields) > 5 and "memfd:prefillshare-kv" in fields[5]}


def test_a_module_without_a_worker_is_named(cluster: Cluster) -> None:
    pid = cluster.process("decode-tool-0").pid
    assert pid is not None
    replies: list[httpx.Response] = []

    def is_answered() -> bool:
        replies.append(cluster.complete("tool"))
        return replies[-1].status_code == 200

    with cluster.unattended():
        os.killpg(pid, signal.SIGKILL)
        assert not is_answered()
    cluster.wait(is_answered, "tool is back")
    refused = replies[:-1]
    assert all(reply.status_code in (500, 502, 503, 504) and "tool" in reply.text for reply in refused)


def test_the_prefill_worker_comes_back_and_no_call_hangs(cluster: Cluster) -> None:
    with ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(cluster.complete, MODULES[n % 3], f"{n} " * 300, max_tokens=200, ignore_eos=True)
            for n in range(6)
        ]
        time.sleep(0.1)
        cluster.kill("prefill-0")
        statuses = [call.result(timeout=CALL_S).status_code for call in asked]
    assert set(statuses) <= {200, 500, 502, 503, 504}
    for module in MODULES:
        cluster.wait(lambda module=module: _serves(cluster, module), f"{module} serves again")


def test_a_prefill_worker_finds_what_it_had_stored_when_it_comes_back(cluster: Cluster) -> None:
    def told() -> dict[str, Any]:
        return read_state(cluster.http)

    def stored(name: str) -> int:
        number: int = worker_of(told(), "prefill-0")["store"][name]
        return number

    prompt, num_pages, num_jobs = "7 eggs and 12 jars " * 40, stored("num_pages"), told()["eager_jobs"]["done"]
    answer = cluster.complete("math", prompt, max_tokens=24, ignore_eos=True).json()
    num_new = (answer["usage"]["prompt_tokens"] - 1) // PAGE_TOKENS
    cluster.wait(lambda: stored("num_pages") >= num_pages + num_new, "the prompt is stored")
    cluster.wait(lambda: told()["eager_jobs"]["done"] > num_jobs, "what follows the answer is computed")
    num_hit = stored("store_hit_tokens")
    cluster.kill("prefill-0")
    cluster.wait(lambda: _serves(cluster, "math") and _serves(cluster, "tool"), "both serve again")
    again = cluster.complete("tool", prompt, max_tokens=24, ignore_eos=True)
    assert again.status_code == 200
    cluster.wait(lambda: stored("store_hit_tokens") >= num_hit + num_new * PAGE_TOKENS, "the prompt is found")
    assert cluster.complete("math", prompt, max_tokens=24, ignore_eos=True).json()["choices"] == answer["choices"]


def test_the_router_comes_back(cluster: Cluster) -> None:
    cluster.kill("router")
    cluster.wait(lambda: all(_serves(cluster, module) for module in MODULES), "all modules serve again")


def test_a_stopped_worker_delays_its_calls_and_no_others(cluster: Cluster) -> None:
    with ThreadPoolExecutor(1) as pool:
        with _stopped(cluster, "decode-code-0"):
            waiting = pool.submit(cluster.complete, "code")
            until = time.monotonic() + 10
            while time.monotonic() < until:
                assert _serves(cluster, "math")
        assert waiting.result(timeout=CALL_S).status_code in (200, 503, 504)
    cluster.wait(lambda: _serves(cluster, "code"), "code serves again")


def test_a_message_that_nobody_can_use_ends_no_later_handoff(cluster: Cluster) -> None:
    prefill = next(worker.place for worker in cluster.running.workers if worker.worker.role == "prefill")
    ranks = dict.fromkeys(("prefill_dp_rank", "prefill_cp_rank", "target_tp_rank", "target_pp_rank"), "0")
    # A worker of this deployment that has gone wrong: of others, nothing is heard.
    keys = PeerKeys(secret=cluster.running.workers[0].command.peer_secret or "")
    headers = {"Authorization": f"Bearer {keys.token}"}
    url = f"http://127.0.0.1:{prefill.bootstrap_port}/route"
    where = httpx.get(url, params=ranks, headers=headers, timeout=60).json()
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        secure_client(peer, keys)
        peer.connect(f"tcp://{where['rank_ip']}:{where['rank_port']}")
        for message in ([b"not SGLang's"], [b"ABORT"], [GUARD, b"17"], [GUARD, b"seventeen", b"", b"", b"agent"]):
            peer.send_multipart(message)
    assert [_serves(cluster, module) for module in MODULES] == [True] * len(MODULES)


def test_rows_of_an_aborted_handoff_stay_taken_while_they_may_be_written(cluster: Cluster) -> None:
    """Another call would get them, and be spoiled: only the prefill worker knows when it writes no more."""

    def is_empty() -> bool:
        return cluster.ask_worker("decode-math-0", "POST", "/flush_cache").status_code == 200

    def has_rows() -> bool:
        kv = cluster.ask_worker("decode-math-0", "GET", "/deployment/state").json()["workers"][0]["kv"]
        return bool(kv) and kv["private_tokens"] > 0

    assert _serves(cluster, "math")
    cluster.wait(is_empty, "the decode worker is idle")
    with _stopped(cluster, "prefill-0"):
        with _asking(cluster, {"model": "math", "prompt": "9 beads", **LONG}):
            cluster.wait(has_rows, "the call has its rows")
        until = time.monotonic() + 3
        while time.monotonic() < until:
            assert not is_empty()
    cluster.wait(is_empty, "the rows are free")
    assert _serves(cluster, "math")


def test_an_abort_while_kv_moves_holds_up_nobody(cluster: Cluster) -> None:
    """A decode worker that is idle after an abort must still help its transfer end: all others wait behind it."""
    chance = random.Random(5)

    def ask(num_tokens: int, timeout_s: float) -> float:
        body = {
            "model": "tool",
            "input_ids": [chance.randrange(5, 900) for _ in range(1500)],
            "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
        }
        start = time.monotonic()
        assert cluster.http.post("/generate", json=body, timeout=timeout_s).status_code == 200
        return time.monotonic() - start

    until_first_token_s = statistics.median(ask(1, timeout_s=60) for _ in range(3))
    for share in range(50, 110, 3):
        with pytest.raises(httpx.TimeoutException):
            ask(2000, timeout_s=until_first_token_s * share / 100)
        assert _serves(cluster, "math"), f"aborted after {share} % of the time to the first token"


def test_nothing_is_left_after_many_calls_with_aborted_ones_among_them(cluster: Cluster) -> None:
    workers = [planned.worker.name for planned in cluster.running.workers]

    def used(name: str) -> tuple[int, int]:
        loads = cluster.ask_worker(name, "GET", "/v1/loads").json()["loads"]
        return sum(load["num_running_reqs"] for load in loads), sum(load["num_waiting_reqs"] for load in loads)

    def call(number: int) -> None:
        module = MODULES[number % 3]
        if number % 5 == 4:
            with pytest.raises(httpx.TimeoutException):
                cluster.http.post(
                    "/v1/completions", json={"model": module, "prompt": f"{number} x", **LONG}, timeout=0.3
                )
        else:
            assert cluster.complete(module, f"{number} boxes").status_code == 200

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(250)))
    cluster.wait(lambda: all(used(name) == (0, 0) for name in workers), "all calls have ended")
    cluster.wait(lambda: cluster.state()["running"] == 0, "the router knows")
    # Only an engine that holds no request empties its cache; SGLang checks that nothing leaked then.
    admin = {"Authorization": "Bearer admin"}
    cluster.wait(lambda: cluster.http.post("/flush_cache", headers=admin).status_code == 200, "all is given back")
    assert _serves(cluster, "math")
