"""What one module has prefilled all of the same tenant hit, and SGLang as released does not (I1, I4, I7)."""

from collections.abc import Iterator

import pytest

from tests.fidelity.conftest import MODULES, Prompt
from tests.support.engines import Endpoint, plain_engine
from tests.support.marks import starts_engine

NUM_TURNS = 9
ANSWER_TOKENS = 12


@pytest.fixture(scope="module")
@starts_engine
def plain() -> Iterator[Endpoint]:
    """The same models on SGLang as released."""
    with plain_engine() as endpoint:
        yield endpoint


def cached_tokens(endpoint: Endpoint, prompt: Prompt) -> list[int]:
    endpoint.flush()
    return [endpoint.generate(prompt, module, 4).cached_tokens for module in MODULES]


def converse(endpoint: Endpoint, opening: Prompt) -> tuple[list[int], list[int]]:
    """Prompt tokens and cached tokens of each call of a conversation that the modules lead in turn.

    The texts are the same on every engine: each turn adds what a fixed rule says, not what was generated.
    """
    endpoint.flush()
    context, lengths, cached = list(opening), [], []
    for turn in range(NUM_TURNS):
        lengths.append(len(context))
        cached.append(endpoint.generate(context, MODULES[turn % 3], ANSWER_TOKENS).cached_tokens)
        context += [10 + (turn * 31 + i * 7) % 1000 for i in range(ANSWER_TOKENS + 8)]
    return lengths, cached


def test_sglang_as_released_prefills_again_for_each_adapter(agents, plain, prompts):
    prompt = prompts[0]
    assert cached_tokens(plain, prompt) == [0, 0, 0]
    assert cached_tokens(agents, prompt) == [0, len(prompt) - 1, len(prompt) - 1]


def test_a_conversation_of_three_modules_prefills_each_token_once(agents, plain, prompts):
    """What a module said is prefilled once, by the prefill module, when it becomes part of the next prompt."""
    lengths, cached = converse(agents, prompts[1])
    assert cached == [0, *(n - 1 for n in lengths[:-1])]

    plain_lengths, plain_cached = converse(plain, prompts[1])
    assert plain_lengths == lengths
    assert plain_cached[:3] == [0, 0, 0]
    prefilled, plain_prefilled = sum(lengths) - sum(cached), sum(lengths) - sum(plain_cached)
    print(
        f"{NUM_TURNS} calls, {sum(lengths)} prompt tokens: {prefilled} prefilled, "
        f"{plain_prefilled} by SGLang as released, {plain_prefilled / prefilled:.2f} times as many"
    )
    assert prefilled < plain_prefilled


def test_sglang_as_released_tells_neither_origin_nor_state(agents, plain, prompts):
    body = {"input_ids": prompts[0], "lora_path": "math", "sampling_params": {"max_new_tokens": 1}}
    for engine, is_told in ((plain, False), (agents, True)):
        assert ("prefillshare" in engine.http.post("/generate", json=body).json()["meta_info"]) == is_told
        assert engine.http.get("/deployment/state").status_code == (200 if is_told else 404)
        assert ("prefillshare_requests_total" in engine.http.get("/metrics").text) == is_told


@pytest.mark.parametrize("same_salt", [True, False])
def test_cache_salts_keep_tenants_apart_and_share_within_one(agents, same_salt):
    text = "how many boxes are there? " * 8
    salts = (f"a-{same_salt}", f"a-{same_salt}" if same_salt else f"b-{same_salt}")
    first, second = (
        agents.chat(module, text, max_tokens=2, cache_salt=salt).json()["usage"]
        for module, salt in zip(("math", "tool"), salts, strict=True)
    )
    assert first["prompt_tokens_details"] is None
    if same_salt:
        assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] - 1
    else:
        assert second["prompt_tokens_details"] is None


def test_the_salt_of_generate_keeps_apart_as_that_of_a_chat(agents, prompts):
    agents.flush()
    prompt = prompts[2]
    assert agents.generate(prompt, "math", 1).cached_tokens == 0
    assert agents.generate(prompt, "tool", 1, cache_salt="a").cached_tokens == 0
    assert agents.generate(prompt, "math", 1, cache_salt="a").cached_tokens == len(prompt) - 1
    assert agents.generate(prompt, "math", 1, cache_salt="a", extra_key="b").cached_tokens == 0
    body = {"input_ids": [prompt, prompt], "lora_path": "math", "sampling_params": {"max_new_tokens": 1}}
    told = agents.http.post("/generate", json=body | {"cache_salt": ["a", "c"]}).json()
    assert [each["meta_info"]["cached_tokens"] for each in told] == [len(prompt) - 1, 0]
    for salt in (5, ["a"], {"a": 1}):
        assert agents.http.post("/generate", json=body | {"cache_salt": salt}).status_code == 400


def test_the_extra_key_of_generate_is_kept(agents, prompts):
    agents.flush()
    prompt = prompts[2]
    assert agents.generate(prompt, "math", 1, extra_key="a").cached_tokens == 0
    assert agents.generate(prompt, "tool", 1, extra_key="b").cached_tokens == 0
    assert agents.generate(prompt, "code", 1).cached_tokens == 0
    assert agents.generate(prompt, "code", 1, extra_key="a").cached_tokens == len(prompt) - 1
