"""Across workers: a decode worker tells what follows its answer, a prefill worker computes it when nobody waits."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from prefillshare.contract import EAGER_HEADER, NO_BOOTSTRAP_HOST
from tests.fidelity_pd.conftest import NUM_TOKENS
from tests.support.engines import engine_state
from tests.support.pd import Pair

ANSWER_TOKENS = 40
HEADERS = {EAGER_HEADER: "1"}
NUM_TRIES = 12
"""A machine that holds up the client lets a job come to its end before anything is done about it: then the next one is
tried."""


def counts(pair: Pair) -> dict[str, int]:
    return pair.prefill_worker()["eager"]


def state(pair: Pair) -> dict[str, Any]:
    return engine_state(pair.prefill)


def long_prompt(pair: Pair, seed: int) -> list[int]:
    """So many tokens that computing them takes a while."""
    return [10 + (seed * 131 + i * 7) % 500 for i in range(3000)]


def test_the_next_turn_is_computed_before_it_comes(pair, prompts, reference):
    prompt = list(prompts[0])
    written = pair.generate(prompt, ANSWER_TOKENS, rid=f"turn-1-{pair.module}")
    found = pair.continuation(f"turn-1-{pair.module}")
    assert found.status_code == 200
    assert found.json() == {
        "input_ids": [*prompt, *written.tokens],
        "extra_key": None,
        "module": pair.module,
        "new_tokens": ANSWER_TOKENS,
    }
    before = counts(pair)
    reply = pair.compute_ahead(found.json()["input_ids"])
    assert reply.status_code == 200, reply.text
    assert reply.json()["meta_info"]["finish_reason"]["type"] == "length"
    assert counts(pair)["tokens"] - before["tokens"] == ANSWER_TOKENS

    next_turn = [*prompt, *written.tokens, 30, 31, 32]
    answer = pair.generate(next_turn, NUM_TOKENS)
    assert len(next_turn) - answer.cached_tokens == 3
    assert answer.tokens == reference.ask(pair.module, next_turn, NUM_TOKENS).tokens
    assert counts(pair)["hit_tokens"] - before["hit_tokens"] == ANSWER_TOKENS


def test_each_continuation_is_told_once(pair, prompts):
    rid = f"once-{pair.module}"
    pair.generate(prompts[1], ANSWER_TOKENS, rid=rid, extra_key="a")
    assert pair.continuation(rid).json()["extra_key"] == "a"
    for asked in (rid, "nobody", ""):
        reply = pair.continuation(asked)
        assert reply.status_code == 404
        assert "no continuation" in reply.json()["error"]["message"]


def test_a_chat_is_told_as_history(pair):
    rid = f"chat-{pair.module}"
    turns = [{"role": "user", "content": "how many boxes are there in the room? " * 3}]
    fields = {"temperature": 0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True, "return_prompt_token_ids": True}
    reply, _ = pair.post("/v1/chat/completions", {"messages": turns, "rid": rid, **fields})
    assert reply.status_code == 200, reply.text
    found = pair.continuation(rid).json()["input_ids"]
    turns += [reply.json()["choices"][0]["message"], {"role": "user", "content": "and eggs?"}]
    reply, _ = pair.post("/v1/chat/completions", {"messages": turns, **fields})
    prompt = reply.json()["choices"][0]["prompt_token_ids"]
    assert prompt[: len(found)] == found
    assert len(prompt) - len(found) < 16


def test_a_call_overtakes_a_job(pair, prompts):
    """A job is thousands of tokens long; a call that comes meanwhile waits for a slice of it at most."""
    for seed in range(10, 10 + NUM_TRIES):
        before = counts(pair)["tokens"]
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(pair.compute_ahead, long_prompt(pair, seed))
            while counts(pair)["tokens"] == before and not job.done():
                pass
            for prompt in prompts[:4]:
                pair.generate(prompt, 1)
            is_overtaken = not job.done()
            assert job.result().json()["meta_info"]["finish_reason"]["type"] == "length"
        if is_overtaken:
            break
    assert is_overtaken
    body = {"input_ids": [*long_prompt(pair, seed), 7], "sampling_params": {"temperature": 0, "max_new_tokens": 1}}
    _, prefilled = pair.post("/generate", body)
    assert prefilled.json()["meta_info"]["cached_tokens"] == 3000


def end_a_job(pair: Pair, first_seed: int, end: Callable[[], httpx.Response]) -> dict[str, int]:
    """End a job that is under way, and see that it ends so; what the worker had counted before."""
    for seed in range(first_seed, first_seed + NUM_TRIES):
        before = counts(pair)
        with ThreadPoolExecutor(1) as pool:
            job = pool.submit(pair.compute_ahead, long_prompt(pair, seed))
            while counts(pair)["tokens"] == before["tokens"] and not job.done():
                pass
            ended = end()
            reason = job.result().json()["meta_info"]["finish_reason"]["type"]
        if reason == "abort":
            assert ended.status_code == 200, ended.text
            return before
        assert reason == "length"
    pytest.fail("every job was computed to its end")


def test_a_flush_ends_a_job_at_once(pair):
    before = end_a_job(pair, 30, lambda: pair.prefill.post("/flush_cache"))
    assert counts(pair)["dropped"] == before["dropped"] + 1
    assert state(pair)["workers"][0]["kv"]["shared_tokens"] == 0


def test_an_abort_of_all_ends_a_job(pair):
    end_a_job(pair, 50, lambda: pair.prefill.post("/abort_request", json={"abort_all": True}))


def test_a_job_is_no_part_of_the_load(pair, prompts):
    with ThreadPoolExecutor(1) as pool:
        before = state(pair)
        job = pool.submit(pair.compute_ahead, long_prompt(pair, 4))
        while not job.done():
            worker = state(pair)["workers"][0]
            assert (worker["running"], worker["queued"]) == (0, 0)
        after = state(pair)
    names = ("requests", "prompt_tokens", "own_hit_tokens", "cross_hit_tokens")
    told = [[{name: module[name] for name in names} for module in each["modules"]] for each in (before, after)]
    assert told[0] == told[1]


def test_a_job_without_tokens_is_refused(pair):
    body = {"text": "hello", "bootstrap_host": NO_BOOTSTRAP_HOST, "bootstrap_room": 1}
    reply = pair.prefill.post("/generate", json=body, headers=HEADERS)
    assert reply.status_code == 400
    assert "input_ids" in reply.json()["error"]["message"]
