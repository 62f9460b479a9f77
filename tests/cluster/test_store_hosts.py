"""Two deployments with a store each, as on two hosts: what the first has computed, the second need not, and it goes on
when the first is killed."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from prefillshare.serving.machine.ports import free_port
from tests.fidelity.conftest import NUM_TOKENS
from tests.store.remote.hosts import secret_file
from tests.support.engines import MODELS_DIR
from tests.support.marks import starts_engine
from tests.support.reference import Reference
from tests.support.stores import Relaunched, relaunched, stored_agents, whole_pages

TINY = MODELS_DIR / "tiny"
WAIT_S = 300.0
Counts = dict[str, int]
FLAGS = ("--max-total-tokens", "8192")
"""Of both engines: one machine has to hold them."""


def prompt(start: int, num_tokens: int) -> list[int]:
    """A prompt that shares nothing with one of another `start`."""
    return [20 + (start * 37 + position * (31 + 2 * start)) % 900 for position in range(num_tokens)]


PROMPTS = [prompt(start, 700 + 90 * start) for start in range(4)]
LATE = [prompt(start, 900) for start in range(10, 14)]
"""What the first host computes before it is killed."""


@pytest.fixture(scope="module")
@starts_engine
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Relaunched, Relaunched]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("UCX_TLS", "tcp")
        folder, address = tmp_path_factory.mktemp("hosts"), f"127.0.0.1:{free_port()}"
        secret = f'memory = "64 MiB"\nsecret_file = "{secret_file(folder)}"\n'
        files = [folder / name for name in ("first", "second")]
        for file in files:
            file.mkdir()
        serving = stored_agents(files[0], f'{secret}serve = "{address}"\n')
        asking = stored_agents(files[1], f'{secret}peers = ["http://{address}"]\n')
        with relaunched(serving, *FLAGS) as first, relaunched(asking, *FLAGS) as second:
            yield first, second


@pytest.fixture(scope="module")
def expected() -> dict[int, list[int]]:
    reference = Reference(TINY / "base", {"tool": TINY / "tool"})
    return {id(asked): reference.ask("tool", asked, NUM_TOKENS).tokens for asked in (*PROMPTS, *LATE)}


def ask(launches: Relaunched, asked: list[int]) -> list[int]:
    """Greedy tokens of a decode module."""
    return launches.endpoint.generate(asked, "tool", NUM_TOKENS).tokens


def store_of(launches: Relaunched) -> Counts:
    """What the engine tells of its store."""
    (worker,) = launches.endpoint.http.get("/deployment/state").json()["workers"]
    return {**worker["store"], "prefilled": worker["prompt_tokens"] - worker["cached_tokens"]}


def ask_until_in_time(launches: Relaunched, asked: list[int], answer: list[int], wanted: Counts) -> Counts:
    """Ask until what the engine counts of the call is as wanted, and return it; every answer is the right one.

    A call waits no longer for other hosts than a second or two: on a machine that stands still for so long it is
    computed. Then all is forgotten here, and it is asked again.
    """
    deadline = time.monotonic() + WAIT_S
    while True:
        before = store_of(launches)
        assert ask(launches, asked) == answer
        after = store_of(launches)
        counted = {name: after[name] - before[name] for name in wanted}
        if counted == wanted or time.monotonic() > deadline:
            return counted
        launches.endpoint.flush()


def test_what_the_first_host_has_computed_the_second_does_not_prefill(hosts, expected):
    first, second = hosts
    assert [ask(first, asked) for asked in PROMPTS] == [expected[id(asked)] for asked in PROMPTS]
    first.wait_for_pages(sum(whole_pages(len(asked)) for asked in PROMPTS) // 16)
    for asked in PROMPTS:
        num_tokens = whole_pages(len(asked))
        left = len(asked) - num_tokens
        wanted = {"fetched_pages": num_tokens // 16, "store_hit_tokens": num_tokens, "prefilled": left}
        assert ask_until_in_time(second, asked, expected[id(asked)], wanted) == wanted


def test_the_second_host_goes_on_when_the_first_is_killed_while_pages_come(hosts, expected):
    first, second = hosts
    assert [ask(first, asked) for asked in LATE] == [expected[id(asked)] for asked in LATE]
    killer = threading.Timer(0.05, os.kill, (first.running.store.sharing_pid, signal.SIGKILL))
    killer.start()
    answers = [ask(second, asked) for asked in LATE]
    killer.join()
    assert answers == [expected[id(asked)] for asked in LATE]
    # And without it.
    assert [ask(second, asked) for asked in reversed(PROMPTS)] == [expected[id(asked)] for asked in reversed(PROMPTS)]
