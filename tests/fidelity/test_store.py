"""With a store, served tokens equal the reference, and nothing is prefilled twice: not what the pool gave up, not after
an engine was killed (I1, I2, I7).

The pool holds 1,600 tokens and the prompts four times as many. One launch after the other is made of one
deployment file, each ended by a kill without warning.
"""

import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fidelity.conftest import MODULES, NUM_TOKENS, Prompt
from tests.support.engines import Answer, Endpoint, engine_state
from tests.support.marks import starts_engine
from tests.support.monitoring import documented_metrics, names_in
from tests.support.stores import (
    PAGE_TOKENS,
    Relaunched,
    damage_store,
    forget_stored,
    num_stored_pages,
    relaunched,
    store_path,
    stored_agents,
    whole_pages,
)
from tests.support.waiting import wait_until

LONG = 600
"""Tokens of an answer that takes longer than what comes meanwhile."""
NUM_TRIES = 8
SMALL_POOL = ("--max-total-tokens", "1600", "--chunked-prefill-size", "256")


@pytest.fixture(scope="module")
@starts_engine
def launches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relaunched]:
    with relaunched(stored_agents(tmp_path_factory.mktemp("stored"), 'memory = "192 MiB"\n'), *SMALL_POOL) as launches:
        yield launches


@pytest.fixture(scope="module")
def working_set(prompts: list[Prompt]) -> list[Prompt]:
    found = prompts[:21]
    assert sum(map(len, found)) > 3 * 1600
    return found


def ask_each(launches: Relaunched, prompts: list[Prompt], module: str | None) -> list[Answer]:
    """One prompt after the other, so that what the first ones left must be found again when the last ones come."""
    return [launches.endpoint.generate(prompt, module, NUM_TOKENS) for prompt in prompts]


def check_exact(asked: list[tuple[Prompt, str | None]], answers: list[Answer], expected) -> None:
    wrong = [
        (module, len(prompt), answer.cached_tokens)
        for (prompt, module), answer in zip(asked, answers, strict=True)
        if answer.tokens != expected.given((prompt, module), answer.tokens).tokens
    ]
    assert not wrong, f"{len(wrong)} of {len(asked)} differ; (module, prompt tokens, cached): {wrong[:3]}"


def check_all_found(prompts: list[Prompt], answers: list[Answer]) -> None:
    """Each whole page was cached; what stands behind the last one may be, where its page is still in the pool."""
    for prompt, answer in zip(prompts, answers, strict=True):
        assert whole_pages(len(prompt)) <= answer.cached_tokens < len(prompt)


def test_what_a_small_pool_gave_up_is_found_again(launches, working_set, expected):
    asked = [(prompt, module) for prompt in working_set for module in (*MODULES, None)]
    Random(0).shuffle(asked)
    check_exact(asked, launches.endpoint.generate_all(asked, NUM_TOKENS, 16), expected)

    answers = ask_each(launches, working_set, "math")
    check_exact([(prompt, "math") for prompt in working_set], answers, expected)
    check_all_found(working_set, answers)
    # What was used last is in the pool, and what was used before that in the host tier.
    backwards = working_set[::-1]
    answers += ask_each(launches, backwards, "code")
    check_all_found(backwards, answers[len(working_set) :])
    from_host = sum(answer.report["host_hit_tokens"] for answer in answers)
    from_store = sum(answer.report["store_hit_tokens"] for answer in answers)
    print(f"from a pool of 1600 tokens and then from: host {from_host} tokens, store {from_store}")
    assert from_host > 0
    assert from_store > 0


def test_calls_that_wait_for_room_keep_what_was_loaded_for_them(launches, working_set, expected):
    """All at once they are four times the pool, and twice the host tier."""
    asked = [(prompt, "code") for prompt in working_set]
    answers = launches.endpoint.generate_all(asked, NUM_TOKENS, len(asked))
    check_exact(asked, answers, expected)
    check_all_found(working_set, answers)


def test_a_killed_engine_comes_back_warm(launches, working_set, expected):
    endpoint = launches.endpoint
    of_a_tenant = working_set[3]
    num_pages = num_stored_pages(launches.file)
    assert endpoint.generate(of_a_tenant, "code", 1, extra_key="a").cached_tokens == 0
    launches.wait_for_pages(num_pages + whole_pages(len(of_a_tenant)) // PAGE_TOKENS)
    launches.kill()

    endpoint = launches.launch()
    assert endpoint.generate(of_a_tenant, "code", 1, extra_key="b").cached_tokens == 0
    found = endpoint.generate(of_a_tenant, "code", NUM_TOKENS, extra_key="a")
    assert found.report["store_hit_tokens"] == whole_pages(len(of_a_tenant))
    check_exact([(of_a_tenant, "code")], [found], expected)

    answers = ask_each(launches, working_set, "tool")
    check_exact([(prompt, "tool") for prompt in working_set], answers, expected)
    num_cached = sum(answer.cached_tokens for answer in answers)
    num_whole = sum(whole_pages(len(prompt)) for prompt in working_set)
    print(f"killed and launched again: {num_cached} of {num_whole} tokens of whole pages found")
    assert num_cached >= 0.97 * num_whole


def test_equal_prompts_that_come_together_are_loaded_once(launches, working_set, expected):
    launches.kill()
    endpoint = launches.launch()
    prompt = working_set[5]
    asked = [(prompt, module) for module in (*MODULES, None)]
    answers = endpoint.generate_batch(asked, NUM_TOKENS)
    check_exact(asked, answers, expected)
    check_all_found([prompt] * 4, answers)
    assert sum(answer.report["store_hit_tokens"] for answer in answers) == whole_pages(len(prompt))


def test_damaged_pages_are_computed_again(launches, working_set, expected):
    launches.kill()
    damaged = damage_store(launches.file)
    assert damaged > 0
    launches.launch()
    answers = ask_each(launches, working_set[:20], "code")
    check_exact([(prompt, "code") for prompt in working_set[:20]], answers, expected)
    whole = [whole_pages(len(prompt)) for prompt in working_set[:20]]
    cached = [answer.cached_tokens for answer in answers]
    assert 0 < sum(cached) < sum(whole)
    # What was damaged was written anew.
    check_all_found(working_set[:20], ask_each(launches, working_set[:20], "math"))


def test_what_the_store_lost_of_a_chain_in_the_pool_is_written_again(launches, working_set, expected):
    """Not only what is new: without its beginning a chain is found by nobody."""
    prompt = working_set[7]
    launches.endpoint.generate(prompt, "code", 1)
    num_pages = whole_pages(len(prompt)) // PAGE_TOKENS
    assert forget_stored(launches.file) >= num_pages
    assert launches.endpoint.generate(prompt, "math", 1).cached_tokens >= whole_pages(len(prompt))
    launches.wait_for_pages(num_pages)
    launches.kill()
    found = launches.launch().generate(prompt, "tool", NUM_TOKENS)
    check_exact([(prompt, "tool")], [found], expected)
    assert found.report["store_hit_tokens"] == whole_pages(len(prompt))


def test_what_is_computed_ahead_is_loaded_as_far_as_it_is_stored(launches, prompts, expected):
    """A conversation has left the pool and the host tier by the time of its job: a long call was in the way."""
    endpoint = launches.endpoint
    for number in range(NUM_TRIES):
        prompt = [20 + number, *prompts[1], *prompts[2], *prompts[3]]
        answer, before, had_turn = ask_while_one_is_in_the_way(endpoint, prompt, prompts)
        after = wait_for_jobs(endpoint)
        if not had_turn:
            break
    assert not had_turn, "the job has had its turn"
    print(f"of {len(prompt) + 40} tokens: before {before}, after {after}")
    assert after["dropped"] == before["dropped"]
    assert after["loaded_tokens"] - before["loaded_tokens"] >= whole_pages(len(prompt)) / 2
    # The other job is that of the call in the way; all other answers are too short.
    assert after["tokens"] - before["tokens"] <= LONG + 40 + 4 * PAGE_TOKENS
    context = (*prompt, *answer.tokens, 7)
    found = endpoint.generate(context, "math", NUM_TOKENS)
    assert found.cached_tokens >= whole_pages(len(prompt) + 40)


def ask_while_one_is_in_the_way(
    endpoint: Endpoint, prompt: list[int], prompts: list[Prompt]
) -> tuple[Answer, dict[str, int], bool]:
    """An answer whose job waits while others take its room; what was computed ahead by then, and whether the job may
    have been, since a machine that held up the client let the call in the way end first.
    """
    with ThreadPoolExecutor(1) as pool:
        in_the_way = pool.submit(endpoint.generate, prompts[0], "tool", LONG)
        while engine_state(endpoint.http)["workers"][0]["running"] == 0 and not in_the_way.done():
            pass
        answer = endpoint.generate(prompt, "math", 40)
        for number in range(2, 24):
            endpoint.generate((30 + number, *prompts[number]), "code", 1)
        before = computed_ahead(endpoint)
        had_turn = in_the_way.done()
        in_the_way.result()
    return answer, before, had_turn


def wait_for_jobs(endpoint: Endpoint) -> dict[str, int]:
    """What was computed ahead once no job is left."""
    wait_until(lambda: not computed_ahead(endpoint)["waiting"], lambda: computed_ahead(endpoint))
    return computed_ahead(endpoint)


def computed_ahead(endpoint: Endpoint) -> dict[str, int]:
    told: dict[str, int] = engine_state(endpoint.http)["workers"][0]["eager"]
    return told


def test_a_flush_forgets_what_is_stored(launches, working_set):
    launches.endpoint.flush()
    assert launches.endpoint.generate(working_set[0], "math", 1).cached_tokens == 0


def test_weights_and_store_stay_while_an_engine_runs(launches):
    asked = launches.endpoint.http
    reply = asked.post("/update_weights_from_disk", json={"model_path": "elsewhere"})
    assert reply.status_code == 400
    assert "launch it anew" in reply.text
    for reply in (
        asked.put("/hicache/storage-backend", json={"hicache_storage_backend": "file"}),
        asked.delete("/hicache/storage-backend"),
    ):
        assert reply.status_code == 400, reply.text


def cut_store(launches: Relaunched) -> None:
    """Take the bytes away from under the engine."""
    os.truncate(store_path(launches.file), 0)


def remove_store(launches: Relaunched) -> None:
    """Remove the folder, as somebody who wants the memory back."""
    shutil.rmtree(store_path(launches.file).parent)


@pytest.mark.parametrize("harm", [cut_store, remove_store])
def test_an_engine_goes_on_without_its_store_and_takes_it_up_again(launches, working_set, expected, harm):
    prompts = working_set[:6]
    asked = [(prompt, "math") for prompt in prompts]
    log = Path(launches.running.log_path)
    before = log.stat().st_size
    harm(launches)
    # One round over more than the pool holds, and one that would find it again in the store.
    check_exact(asked, ask_each(launches, prompts, "math"), expected)
    launches.endpoint.flush()
    check_exact(asked, ask_each(launches, prompts, "math"), expected)
    told = wait_until_attached(launches)
    assert told["failures"] > 0
    said = log.read_bytes()[before:].decode(errors="replace")
    assert said.count("goes on without the store") == 1
    assert "while it was in use" in said

    launches.endpoint.flush()
    answers = ask_each(launches, [*prompts, *prompts], "code")
    check_exact([(prompt, "code") for prompt in (*prompts, *prompts)], answers, expected)
    check_all_found(prompts, answers[len(prompts) :])
    assert sum(answer.report["store_hit_tokens"] + answer.report["host_hit_tokens"] for answer in answers) > 0
    # Others find it too.
    launches.wait_for_pages(max(whole_pages(len(prompt)) for prompt in prompts) // PAGE_TOKENS)


def wait_until_attached(launches: Relaunched) -> dict[str, Any]:
    """What the engine tells of the store once it has one."""
    deadline = time.monotonic() + 120
    while True:
        (worker,) = engine_state(launches.endpoint.http)["workers"]
        told: dict[str, Any] = worker["store"]
        if told["is_attached"]:
            assert told["why_off"] is None
            return told
        assert "was" in told["why_off"]
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def test_the_docs_list_every_metric_of_a_store_and_no_other(launches):
    served = names_in(launches.endpoint.http.get("/metrics").text)
    documented = documented_metrics(with_store=True)
    assert len(documented) > 10
    assert documented == {name for name in served if name.startswith(("prefillshare_store_", "prefillshare_host_"))}
