"""Two prefill workers over one store: what one has computed, the other finds, and so does one that was killed."""

import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.launch import plan
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from tests.support.engines import MODELS_DIR, flush
from tests.support.forks import fork_server
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state
from tests.support.reference import Reference
from tests.support.stores import damage_store, store_path, wait_for_pages, whole_pages

NUM_TOKENS = 8
TINY = MODELS_DIR / "tiny"
WAIT_S = 300.0
DEPLOYMENT = f"""
name = "stored-pd"
topology = "disaggregated"
[prefill]
name = "tiny-base"
path = "{TINY / "base"}"
workers = 2
eager_answers = false
[[decode]]
name = "tool"
kind = "lora"
path = "{TINY / "tool"}"
[engine]
dtype = "float32"
max_total_tokens = 8192
[router]
policy = "round_robin"
kv_events = true
health_timeout_s = 60
[store]
memory = "192 MiB"
"""
PROMPTS = [[20 + (start * 37 + position * 31) % 900 for position in range(150 + 40 * start)] for start in range(5)]


@dataclass(slots=True)
class Stored:
    """A running deployment, its file, and an address to ask."""

    running: RunningCluster
    file: Path
    http: httpx.Client

    def ask(self, prompt: list[int]) -> list[int]:
        """Greedy tokens."""
        body = {
            "input_ids": prompt,
            "lora_path": "tool",
            "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True},
        }
        reply = self.http.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()["output_ids"]

    def prefill_workers(self) -> list[dict[str, Any]]:
        """Their entries in the deployment's state."""
        return [worker for worker in read_state(self.http)["workers"] if worker["role"] == "prefill"]

    def num_prefilled(self) -> list[int]:
        """Prompt tokens that each of them has computed."""
        return [worker["prompt_tokens"] - worker["cached_tokens"] for worker in self.prefill_workers()]

    def num_damaged(self) -> list[int]:
        """Pages that each of them found damaged."""
        return [worker["store"]["damaged_pages"] for worker in self.prefill_workers()]

    def wait_until_up(self, name: str) -> None:
        """Look after the processes until the router sends calls to this one."""
        deadline = time.monotonic() + WAIT_S
        while True:
            self.running.step()
            states = {worker["id"]: (worker["state"], worker["restarts"]) for worker in self.prefill_workers()}
            if states[name] == ("up", 1):
                return
            assert time.monotonic() < deadline, f"{states} after {WAIT_S:.0f} s"
            time.sleep(0.2)


@contextlib.contextmanager
def serving(file: Path) -> Iterator[Stored]:
    """Serve a deployment file while the block runs."""
    deployment, options = resolve(load_deployment(file)), LaunchOptions(port=free_port())
    forks = fork_server(next(iter(plan(deployment, options).values())))
    running = launch_cluster(deployment, options, borrowed=forks)
    try:
        with httpx.Client(base_url=running.url, timeout=WAIT_S) as http:
            yield Stored(running, file, http)
    finally:
        running.stop(drain_s=0)


@pytest.fixture(scope="module")
@starts_engine
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    file = tmp_path_factory.mktemp("stored") / "stored.toml"
    file.write_text(DEPLOYMENT)
    with serving(file) as running:
        yield running


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    reference = Reference(TINY / "base", {"tool": TINY / "tool"})
    return [reference.ask("tool", prompt, NUM_TOKENS).tokens for prompt in PROMPTS]


def test_the_second_prefill_worker_finds_what_the_first_has_computed(stored, expected):
    flush(stored.http)
    before, num_unique = sum(stored.num_prefilled()), sum(map(len, PROMPTS))
    # An odd number of calls: in the second round each prompt goes to the other worker.
    assert len(PROMPTS) % 2 == 1
    assert [stored.ask(prompt) for prompt in PROMPTS] == expected
    wait_for_pages(stored.file, sum(whole_pages(len(prompt)) for prompt in PROMPTS) // 16, WAIT_S)
    assert [stored.ask(prompt) for prompt in PROMPTS] == expected

    found = sum(worker["store"]["store_hit_tokens"] for worker in stored.prefill_workers())
    num_prefilled = sum(stored.num_prefilled()) - before
    print(f"two prefill workers: {num_prefilled} of {2 * num_unique} tokens prefilled, {num_unique} unique ones")
    # Of the second round only what is no whole page.
    assert num_prefilled <= num_unique + 16 * len(PROMPTS)
    assert found == sum(whole_pages(len(prompt)) for prompt in PROMPTS)


def test_a_killed_prefill_worker_comes_back_warm(stored, expected):
    pid = next(process.pid for process in stored.running.processes() if process.name == "prefill-0")
    os.killpg(pid, signal.SIGKILL)
    stored.wait_until_up("prefill-0")
    hits_before = stored.prefill_workers()[0]["store"]["store_hit_tokens"]
    before = sum(stored.num_prefilled())
    assert [stored.ask(prompt) for prompt in (*PROMPTS, *PROMPTS)] == [*expected, *expected]
    assert stored.prefill_workers()[0]["store"]["store_hit_tokens"] > hits_before
    assert sum(stored.num_prefilled()) - before <= 2 * 16 * len(PROMPTS)


def test_bits_flipped_under_running_workers_and_over_a_restart_cost_pages_and_no_answer(stored, expected):
    flush(stored.http)
    assert [stored.ask(prompt) for prompt in PROMPTS] == expected
    wait_for_pages(stored.file, sum(whole_pages(len(prompt)) for prompt in PROMPTS) // 16, WAIT_S)
    assert damage_store(stored.file) > 0
    before = stored.num_damaged()
    # Each prompt goes to the other worker now, which has nothing of it but what is stored.
    assert [stored.ask(prompt) for prompt in PROMPTS] == expected
    assert sum(stored.num_damaged()) > sum(before)

    pid = next(process.pid for process in stored.running.processes() if process.name == "prefill-1")
    os.killpg(pid, signal.SIGKILL)
    assert damage_store(stored.file) > 0
    stored.wait_until_up("prefill-1")
    assert [stored.ask(prompt) for prompt in (*PROMPTS, *PROMPTS)] == [*expected, *expected]
    assert stored.num_damaged()[1] > 0, "counted anew since the restart"


def test_files_cut_at_any_moment_cost_pages_and_no_call(stored, expected):
    """Both workers leave the store, and meet in one again."""
    path, is_over, num_cuts = store_path(stored.file), threading.Event(), 0
    chooser = random.Random(1)

    def cut() -> None:
        nonlocal num_cuts
        while not is_over.wait(chooser.uniform(0.0, 0.02)):
            with contextlib.suppress(FileNotFoundError):  # one of the workers makes it anew
                os.truncate(path, chooser.randrange(2 * path.stat().st_size + 1))
                num_cuts += 1

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        for _ in range(3):
            flush(stored.http)
            assert [stored.ask(prompt) for prompt in PROMPTS] == expected
    finally:
        is_over.set()
        cutter.join()
    assert num_cuts > 0
    path.unlink(missing_ok=True)
    deadline = time.monotonic() + WAIT_S
    while not all(worker["store"]["is_attached"] for worker in stored.prefill_workers()) or not path.exists():
        assert time.monotonic() < deadline
        assert stored.ask(PROMPTS[0]) == expected[0]
        time.sleep(0.2)
    stored.running.step()
    assert [worker["restarts"] for worker in stored.prefill_workers()] == [1, 1]
    flush(stored.http)
    assert [stored.ask(prompt) for prompt in PROMPTS] == expected
    wait_for_pages(stored.file, sum(whole_pages(len(prompt)) for prompt in PROMPTS) // 16, WAIT_S)
