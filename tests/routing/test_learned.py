"""What the choice of workers makes of a batch of which only the first prompts are indexed."""

import json

import pytest

from prefillshare.naming.names import Names
from prefillshare.routing.call.call import Call
from prefillshare.routing.call.parse import Served, parse_call
from prefillshare.routing.call.prompt import MAX_INDEXED_PROMPTS
from tests.routing.test_ranked import Both

SERVED = Served(names=Names(base="base", modules=["math", "code"]), vocab_size=2000)
BYTES_PER_TOKEN = 5
PROMPT_TOKENS = 40


def batch(num_prompts: int) -> Call:
    """A call with so many prompts of `PROMPT_TOKENS` tokens each, as the index sees them; no other one begins alike."""
    # What a canonical prompt has before its text: the end of an empty namespace, and its kind.
    text = f"{num_prompts}".ljust(BYTES_PER_TOKEN * PROMPT_TOKENS - len("\x1etext"), "x")
    return parse_call("/generate", json.dumps({"model": "math", "text": [text] * num_prompts}).encode(), SERVED)


@pytest.mark.parametrize("num_prompts", [1, MAX_INDEXED_PROMPTS, MAX_INDEXED_PROMPTS + 1, 1000])
def test_the_work_of_a_batch_is_that_of_all_its_prompts(num_prompts: int) -> None:
    chooser, call = Both("least_loaded").chooser, batch(num_prompts)
    pair = chooser.choose(call)
    assert pair is not None
    all_tokens = num_prompts * BYTES_PER_TOKEN * PROMPT_TOKENS / chooser.bytes_per_token
    assert pair.expected_tokens == pytest.approx(all_tokens)


def test_bytes_per_token_come_from_batches_whose_prompts_are_all_known() -> None:
    chooser = Both("least_loaded").chooser
    for num_prompts in (1, MAX_INDEXED_PROMPTS, MAX_INDEXED_PROMPTS + 1, 1000):
        before, call = chooser.bytes_per_token, batch(num_prompts)
        pair = chooser.choose(call)
        assert pair is not None
        chooser.learn(call, pair, PROMPT_TOKENS * num_prompts)
        is_known = num_prompts <= MAX_INDEXED_PROMPTS
        assert before < chooser.bytes_per_token < BYTES_PER_TOKEN if is_known else chooser.bytes_per_token == before
