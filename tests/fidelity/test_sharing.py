"""What one module has prefilled every other one hits, and SGLang as released does not."""

import pytest

from tests.fidelity.conftest import MODULES
from tests.support.engines import Endpoint, plain_engine


def cached_tokens(endpoint: Endpoint, prompt) -> list[int]:
    endpoint.flush()
    return [endpoint.generate(prompt, module, 4).cached_tokens for module in MODULES]


def test_sglang_as_released_prefills_again_for_each_adapter(agents, prompts):
    prompt = prompts[0]
    with plain_engine() as plain:
        assert cached_tokens(plain, prompt) == [0, 0, 0]
    assert cached_tokens(agents, prompt) == [0, len(prompt) - 1, len(prompt) - 1]


def test_a_conversation_of_three_modules_prefills_each_token_once(agents, prompts):
    """I4: what a module said is prefilled once, by the prefill module, when it becomes part of the next prompt."""
    agents.flush()
    context = list(prompts[1])
    known = 0
    for turn in range(6):
        answer = agents.generate(context, MODULES[turn % 3], 12)
        assert answer.cached_tokens == known
        known = len(context) - 1
        context += [*answer.tokens, 10 + turn, 20 + turn]


@pytest.mark.parametrize("same_salt", [True, False])
def test_cache_salts_keep_tenants_apart_and_share_within_one(agents, same_salt):
    text = f"salt {same_salt}: " + "how many boxes are there? " * 8
    first = agents.chat("math", text, max_tokens=2, cache_salt="tenant-a").json()["usage"]
    second = agents.chat("tool", text, max_tokens=2, cache_salt="tenant-a" if same_salt else "tenant-b").json()["usage"]
    assert first["prompt_tokens_details"] is None
    if same_salt:
        assert second["prompt_tokens_details"]["cached_tokens"] == second["prompt_tokens"] - 1
    else:
        assert second["prompt_tokens_details"] is None


def test_the_extra_key_of_generate_is_kept(agents, prompts):
    agents.flush()
    prompt = prompts[2]
    assert agents.generate(prompt, "math", 1, extra_key="a").cached_tokens == 0
    assert agents.generate(prompt, "tool", 1, extra_key="b").cached_tokens == 0
    assert agents.generate(prompt, "code", 1).cached_tokens == 0
    assert agents.generate(prompt, "code", 1, extra_key="a").cached_tokens == len(prompt) - 1
