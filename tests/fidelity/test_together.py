"""Everything at once on one engine: both kinds of modules, answers computed ahead, host tier and store, tenants,
priorities, retraction, mixed batches, a pool and a host tier that hold half of what is asked (I1, I2, I3, I5, I7).

The host tier is as large as the pool (`host_ratio = 1.0`), the least that a deployment file may ask for: copies of
what the pool holds fill it, and loads have to make their own room.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fidelity.icarus_expected import Rules
from tests.fidelity.icarus_family import ORDINARY, PAIRED, make_icarus_family
from tests.support.engines import Answer, Endpoint, engine_state, shared_engine, with_prefill_key
from tests.support.marks import starts_engine
from tests.support.scores import Score
from tests.support.stores import num_stored_pages, whole_pages
from tests.support.waiting import wait_until

NUM_TOKENS = 18
POOL_TOKENS = 2048
MODULES = (*PAIRED, *ORDINARY, None)
TENANTS = (None, "a", "b")
ARGS = ("--max-total-tokens", str(POOL_TOKENS), "--chunked-prefill-size", "64", "--enable-mixed-chunk")
RETRACTION = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "7"}

Prompt = tuple[int, ...]
Call = tuple[Prompt, str | None, str | None, int]
"""Prompt, module, tenant, priority."""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    file = with_prefill_key(make_icarus_family(folder), "eager_min_tokens = 1", folder)
    file.write_text(f'{file.read_text()}[store]\nmemory = "192 MiB"\nhost_ratio = 1.0\n')
    return file


@pytest.fixture(scope="module")
@starts_engine
def engine(file: Path) -> Iterator[Endpoint]:
    with shared_engine(file, *ARGS, "--enable-priority-scheduling", environment=RETRACTION) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def rules(file: Path) -> Rules:
    return Rules(file.parent)


@pytest.fixture(scope="module")
def few(prompts: list[Prompt]) -> list[Prompt]:
    """Twice the pool, since each tenant has them for himself."""
    few = prompts[:8]
    assert len(TENANTS) * sum(map(len, few)) > 2 * POOL_TOKENS
    return few


@pytest.fixture(scope="module")
def calls(few: list[Prompt]) -> list[Call]:
    """Each prompt by every module for some tenant, and by some module for every tenant."""
    random = Random(0)
    calls = [
        (prompt, module, tenant, random.randrange(3))
        for number, prompt in enumerate(few)
        for place, module in enumerate(MODULES)
        for turn, tenant in enumerate(TENANTS)
        if (number + place + turn) % 2
    ]
    random.shuffle(calls)
    return calls


def ask_all(engine: Endpoint, calls: list[Call], concurrency: int) -> list[Answer]:
    """The answers to the calls."""

    def ask(call: Call) -> Answer:
        prompt, module, tenant, priority = call
        return engine.generate(prompt, module, NUM_TOKENS, extra_key=tenant, priority=priority)

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, calls))


def check(rules: Rules, calls: list[Call], answers: list[Answer], score: Score) -> None:
    """All of them are exact."""
    rules.check([(prompt, module) for prompt, module, _, _ in calls], answers, score)


def state(engine: Endpoint) -> dict[str, Any]:
    """What the engine tells of itself."""
    found: dict[str, Any] = engine_state(engine.http)["workers"][0]
    return found


def test_no_tenant_finds_what_another_one_has_asked(engine, few, rules, score):
    of_all: list[Answer] = []
    for tenant in TENANTS:
        of_all.append(engine.generate(few[0], "solver", NUM_TOKENS, extra_key=tenant))
        assert of_all[-1].cached_tokens == 0
    again = [engine.generate(few[0], "math", NUM_TOKENS, extra_key=tenant) for tenant in TENANTS]
    assert all(answer.cached_tokens >= whole_pages(len(few[0])) for answer in again)
    rules.check([(few[0], module) for module in ("solver", "math") for _ in TENANTS], of_all + again, score)


def test_eight_at_a_time(engine, calls, rules, score):
    check(rules, calls, ask_all(engine, calls, 8), score)
    told = state(engine)
    assert told["eager"]["tokens"] > 0
    assert told["store"]["written_pages"] > 0


def test_all_is_found_again_though_pool_and_host_tier_hold_half_of_it(engine, few, rules, score):
    """Loads make their room in a host tier that copies of the pool fill: no part of a prompt is lost on the way."""
    calls = [(prompt, "math", tenant, 0) for tenant in TENANTS for prompt in few]
    before = state(engine)["store"]
    answers = ask_all(engine, calls, 4)
    check(rules, calls, answers, score)
    for (prompt, *_), answer in zip(calls, answers, strict=True):
        assert whole_pages(len(prompt)) <= answer.cached_tokens < len(prompt)
    after = state(engine)["store"]
    from_store = sum(answer.report["store_hit_tokens"] for answer in answers)
    assert from_store > sum(len(prompt) for prompt, *_ in calls) // 2
    # Continuations that are computed ahead find their beginnings as well.
    assert after["store_hit_tokens"] - before["store_hit_tokens"] >= from_store


def test_what_the_engine_counts_adds_up(engine, file):
    # The last ones are written just now.
    wait_until(lambda: state(engine)["store"]["written_pages"] >= num_stored_pages(file), lambda: state(engine))
    store = state(engine)["store"]
    assert store["is_attached"]
    assert (store["refused_pages"], store["damaged_pages"], store["failures"], store["evicted_pages"]) == (0, 0, 0, 0)
    assert store["host_used_tokens"] <= store["host_capacity_tokens"]
    assert store["num_pages"] == store["written_pages"]
