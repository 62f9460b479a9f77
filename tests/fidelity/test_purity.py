"""KV of x_n and of generated tokens is never served to anybody (I2)."""

import pytest

from tests.fidelity.conftest import MODULES, NUM_TOKENS


@pytest.mark.parametrize("reader", [*MODULES, None])
def test_what_a_module_generated_is_prefilled_by_the_base_before_anyone_reads_it(agents, prompts, reference, reader):
    """The next turn goes on exactly where the module stopped: its own KV would fit, and must not be used."""
    agents.flush()
    prompt = list(prompts[3])
    written = agents.generate(prompt, "math", NUM_TOKENS)
    next_turn = [*prompt, *written.tokens, *prompt[:5]]

    answer = agents.generate(next_turn, reader, NUM_TOKENS)

    assert answer.cached_tokens == len(prompt) - 1
    assert answer.tokens == reference.ask(reader, next_turn, NUM_TOKENS).tokens
    again = agents.generate(next_turn, "tool", NUM_TOKENS)
    assert again.cached_tokens == len(next_turn) - 1
    assert again.tokens == reference.ask("tool", next_turn, NUM_TOKENS).tokens


def test_the_last_prompt_token_is_private_when_it_becomes_an_inner_one(agents, prompts, reference):
    agents.flush()
    prompt = list(prompts[4])
    agents.generate(prompt, "code", 1)
    longer = [*prompt, prompt[-1], prompt[-2]]
    answer = agents.generate(longer, "code", NUM_TOKENS)
    assert answer.cached_tokens == len(prompt) - 1
    assert answer.tokens == reference.ask("code", longer, NUM_TOKENS).tokens


def test_base_answers_are_base_made_and_may_be_shared(agents, prompts, reference):
    agents.flush()
    prompt = list(prompts[5])
    written = agents.generate(prompt, None, NUM_TOKENS)
    next_turn = [*prompt, *written.tokens, 7, 8]
    answer = agents.generate(next_turn, "math", NUM_TOKENS)
    assert answer.cached_tokens == len(prompt) + NUM_TOKENS - 1
    assert answer.tokens == reference.ask("math", next_turn, NUM_TOKENS).tokens
