"""Only what a decode worker lacks is moved, and only base-made KV is ever held for others (I1, I2, I4, I7)."""

import pytest

from tests.fidelity_pd.conftest import MODULES, NUM_TOKENS

NUM_TURNS = 6
ANSWER_TOKENS = 12


def test_each_turn_of_a_conversation_moves_what_is_new(pair, prompts, reference):
    """The module's own answer is new, too: its KV is the decode worker's, and the next turn needs the base's."""
    context, held = list(prompts[0]), 0
    bytes_per_token = set()
    for turn in range(NUM_TURNS):
        answer = pair.generate(context, ANSWER_TOKENS)
        assert answer.tokens == reference.ask(pair.module, context, ANSWER_TOKENS).tokens
        assert answer.handoff_tokens == len(context) - held
        # The prefill worker keeps its own KV of x_n, so it computes one token less than it sends.
        assert answer.cached_tokens == (held + 1 if held else 0)
        bytes_per_token.add(answer.meta["prefillshare"][0]["handoff_bytes"] / answer.handoff_tokens)
        held = len(context) - 1
        context += [*answer.tokens, *(10 + (turn * 31 + i * 7) % 500 for i in range(8))]
    assert len(bytes_per_token) == 1


def test_what_was_generated_is_moved_again_when_it_becomes_prompt(pair, prompts, reference):
    """The next turn goes on exactly where the module stopped: its own KV would fit, and must not be used."""
    prompt = list(prompts[3])
    written = pair.generate(prompt, NUM_TOKENS)
    next_turn = [*prompt, *written.tokens, *prompt[:5]]
    answer = pair.generate(next_turn, NUM_TOKENS)
    assert answer.handoff_tokens == len(next_turn) - (len(prompt) - 1)
    assert answer.tokens == reference.ask(pair.module, next_turn, NUM_TOKENS).tokens


def test_the_last_prompt_token_is_moved_again_when_it_becomes_an_inner_one(pair, prompts, reference):
    prompt = list(prompts[4])
    pair.generate(prompt, 1)
    longer = [*prompt, prompt[-1], prompt[-2]]
    answer = pair.generate(longer, NUM_TOKENS)
    assert answer.handoff_tokens == len(longer) - (len(prompt) - 1)
    assert answer.tokens == reference.ask(pair.module, longer, NUM_TOKENS).tokens


def test_all_decode_workers_share_what_the_prefill_worker_computed(workers, prompts):
    first, second = (workers.pairs[module] for module in MODULES)
    first.flush()
    second.flush()
    prompt = prompts[5]
    for asked, cached in ((first, 0), (second, len(prompt) - 1)):
        body = {"input_ids": list(prompt), "sampling_params": {"temperature": 0, "max_new_tokens": 2}}
        decoded, prefilled = asked.post("/generate", body)
        assert prefilled.json()["meta_info"]["cached_tokens"] == cached
        assert decoded.json()["meta_info"]["prefillshare"][0]["handoff_tokens"] == len(prompt)


@pytest.mark.parametrize(
    ("door", "field"), [("generate", "extra_key"), ("generate", "cache_salt"), ("chat", "cache_salt")]
)
def test_tenants_are_kept_apart_on_both_workers(pair, prompts, door, field):
    def cached(salt: str | None) -> tuple[int, int]:
        salted = {field: salt} if salt else {}
        if door == "generate":
            answer = pair.generate(prompts[6 if field == "extra_key" else 7], 1, **salted)
            return answer.cached_tokens, answer.handoff_tokens
        decoded, prefilled = pair.chat("how many boxes are there? " * 8, max_tokens=1, **salted)
        details = decoded.json()["usage"]["prompt_tokens_details"]
        return (details or {}).get("cached_tokens", 0), prefilled.json()["metadata"]["prefillshare"]["handoff_tokens"]

    (none, whole), *others = cached("a"), cached("b"), cached(None)
    assert none == 0
    assert others == [(0, whole), (0, whole)]
    assert cached("a") == (whole - 1, 1)
