"""KV that a decode worker is handed before any call asks for it: exact, of use, in nobody's way, counted apart."""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import httpx
import pytest

from prefillshare.contract import PUSH_RID_PREFIX
from tests.fidelity_pd.conftest import NUM_TOKENS
from tests.support.engines import engine_state
from tests.support.pd import Pair

NEW = [7, 8, 9, 10, 11, 12, 13, 14]


def push(pair: Pair, tokens: Sequence[int], **fields: Any) -> tuple[httpx.Response, httpx.Response]:
    """A push as a router makes it, of KV that was made before: the decode worker's reply and the prefill worker's."""
    assert pair.compute_ahead(tokens, **fields).status_code == 200
    return push_as_it_is(pair, tokens, **fields)


def push_as_it_is(pair: Pair, tokens: Sequence[int], **fields: Any) -> tuple[httpx.Response, httpx.Response]:
    """The legs alone. Where the prefill worker gives up, the decode worker is told."""
    params = {"temperature": 0, "max_new_tokens": 0}
    rid = f"{PUSH_RID_PREFIX}{uuid.uuid4().hex}"
    body = {"input_ids": list(tokens), "sampling_params": params, "rid": rid, **fields}
    decoding, prefilling = pair.submit("/generate", body)
    prefilled = prefilling.result()
    if prefilled.status_code != 200:
        assert pair.decode.post("/abort_request", json={"rid": rid}).status_code == 200
    return decoding.result(), prefilled


def pushes(pair: Pair) -> tuple[int, int]:
    """Tokens that were pushed to the decode worker, and those of them that calls have hit."""
    told = engine_state(pair.decode)["workers"][0]["push"]
    return told["pushed_tokens"], told["push_hit_tokens"]


def test_a_call_finds_what_was_pushed_and_answers_as_ever(pair, prompts, reference):
    prompt = list(prompts[0])
    first = pair.generate(prompt, NUM_TOKENS)
    before = pushes(pair)
    context = [*prompt, *first.tokens, *NEW]
    decoded, prefilled = push(pair, context)
    assert (decoded.status_code, prefilled.status_code) == (200, 200), decoded.text + prefilled.text
    assert decoded.json()["output_ids"] == []
    # x_n of a push is not kept; of the first call's prompt its x_n was not there either.
    num_pushed = len(context) - 1 - (len(prompt) - 1)
    assert pushes(pair) == (before[0] + num_pushed, before[1])
    call = [*context, *NEW]
    answer = pair.generate(call, NUM_TOKENS)
    assert answer.tokens == reference.ask(pair.module, call, NUM_TOKENS).tokens
    assert answer.handoff_tokens == len(call) - (len(context) - 1)
    assert pushes(pair) == (before[0] + num_pushed, before[1] + num_pushed)
    # Each counts once.
    assert pair.generate(call, NUM_TOKENS).tokens == answer.tokens
    assert pushes(pair) == (before[0] + num_pushed, before[1] + num_pushed)


def test_a_call_that_goes_another_way_hits_what_it_shares(pair, prompts, reference):
    prompt = list(prompts[1])
    before = pushes(pair)
    push(pair, [*prompt, *NEW])
    call = [*prompt, *reversed(NEW), *NEW]
    answer = pair.generate(call, NUM_TOKENS)
    assert answer.tokens == reference.ask(pair.module, call, NUM_TOKENS).tokens
    pushed, hit = (after - earlier for after, earlier in zip(pushes(pair), before, strict=True))
    assert (pushed, hit) == (len(prompt) + len(NEW) - 1, len(prompt))


def test_a_push_of_what_is_held_moves_little_and_is_no_hit(pair, prompts):
    prompt = list(prompts[2])
    pair.generate(prompt, 1)
    before = pushes(pair)
    for _ in range(2):
        assert push(pair, prompt)[0].status_code == 200
    assert pushes(pair) == before


def test_a_push_is_no_call(pair, prompts):
    workers = (pair.prefill, pair.decode)
    before = [engine_state(worker) for worker in workers]
    push(pair, prompts[3])
    after = [engine_state(worker) for worker in workers]
    for earlier, later in zip(before, after, strict=True):
        assert [module["requests"] for module in later["modules"]] == [
            module["requests"] for module in earlier["modules"]
        ]
        for name in ("prompt_tokens", "cached_tokens", "running", "queued", "handoff"):
            assert later["workers"][0][name] == earlier["workers"][0][name], name
    assert after[0]["workers"][0]["push"] is None


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_pushes(pair, prompts, reference, length):
    prompt = list(prompts[4])
    assert push(pair, prompt[:length])[0].status_code == 200
    assert pair.generate(prompt, NUM_TOKENS).tokens == reference.ask(pair.module, prompt, NUM_TOKENS).tokens


def test_tenants_are_kept_apart(pair, prompts):
    before = pushes(pair)
    push(pair, prompts[5], extra_key="a")
    assert pair.generate(prompts[5], 1, extra_key="b").handoff_tokens == len(prompts[5])
    assert pushes(pair)[1] == before[1]
    assert pair.generate(prompts[5], 1, extra_key="a").handoff_tokens == 1
    assert pushes(pair)[1] == before[1] + len(prompts[5]) - 1


def test_pushes_among_calls_spoil_nothing(pair, prompts, expected):
    """Every prompt is pushed while all are asked: half of the rows come twice."""
    with ThreadPoolExecutor(16) as pool:
        pushed = [pool.submit(push, pair, prompt) for prompt in prompts]
        answers = list(pool.map(lambda prompt: pair.generate(prompt, NUM_TOKENS), prompts))
        statuses = {future.result()[0].status_code for future in pushed}
    assert [answer.tokens for answer in answers] == [expected.tokens(prompt, pair.module) for prompt in prompts]
    assert statuses <= {200, 500, 503}
    pair.flush()  # refused while anything is left


def test_a_push_that_would_have_to_be_prefilled_ends_at_once(pair, prompts, reference):
    """Its KV was evicted since it was made: the prompt would be computed among the calls, and nobody waits for it."""
    prompt = long_prompt(1)
    before = pair.prefill.get("/metrics").text
    decoded, prefilled = push_as_it_is(pair, prompt)
    assert (prefilled.status_code, "calls need the room" in prefilled.text) == (503, True), prefilled.text
    assert decoded.status_code >= 400
    after = pair.prefill.get("/metrics").text
    failures = "sglang:num_bootstrap_failed_reqs_total"
    for text in (before, after):
        assert [line for line in text.splitlines() if line.startswith(failures) and not line.endswith(" 0.0")] == []
    assert pair.prefill_worker()["kv"]["shared_tokens"] == 0
    assert push(pair, prompt)[0].status_code == 200
    assert pair.generate([*prompt, *NEW], NUM_TOKENS).handoff_tokens == len(NEW) + 1
    pair.flush()


def test_a_push_ends_where_calls_wait_at_the_prefill_worker(pair, prompts, reference):
    """Calls fill several chunks, so some are left in the queue; what is pushed meanwhile has no place among them.

    A machine that holds up who pushes lets the calls end first: then others come.
    """
    made = list(prompts[6])
    assert pair.compute_ahead(made).status_code == 200
    for seed in range(10, 90, 10):
        calls = [long_prompt(seed + number) for number in range(3)]
        ended = 0
        with ThreadPoolExecutor(len(calls)) as pool:
            asked = [pool.submit(pair.generate, call, 4) for call in calls]
            while not all(call.done() for call in asked):
                _, prefilled = push_as_it_is(pair, made)
                assert prefilled.status_code in (200, 503), prefilled.text
                ended += prefilled.status_code == 503
        if ended:
            break
    assert ended > 0
    assert asked[0].result().tokens == reference.ask(pair.module, calls[0], 4).tokens
    assert all(len(call.result().tokens) == 4 for call in asked)
    assert pair.generate(made, NUM_TOKENS).tokens == reference.ask(pair.module, made, NUM_TOKENS).tokens
    pair.flush()  # refused while anything is left


def long_prompt(seed: int) -> list[int]:
    chance = Random(seed)
    return [chance.randrange(10, 500) for _ in range(3000)]
