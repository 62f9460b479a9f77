"""The reference says the same, whatever it is given as a draft."""

import pytest

from tests.fidelity.conftest import MODULES, NUM_TOKENS, Prompt
from tests.support.reference import Reference

TOLERANCE = 1e-5


@pytest.mark.parametrize("module", [*MODULES, None])
def test_a_draft_changes_nothing(reference: Reference, prompts: list[Prompt], module: str | None) -> None:
    prompt = prompts[1]
    alone = reference.ask(module, prompt, NUM_TOKENS)
    assert len(alone.tokens) == len(alone.logprobs) == NUM_TOKENS
    wrong = [token + 1 for token in alone.tokens]
    half = NUM_TOKENS // 2
    drafts = [
        alone.tokens,
        wrong,
        [*alone.tokens[:half], *wrong[half:]],
        [*alone.tokens[:half], wrong[half], *alone.tokens[half + 1 :]],
        [*alone.tokens[:-1], wrong[-1]],
        [*alone.tokens, *wrong],
        alone.tokens[:3],
    ]
    for draft in drafts:
        found = reference.ask(module, prompt, NUM_TOKENS, draft)
        assert found.tokens == alone.tokens
        assert found.logprobs == pytest.approx(alone.logprobs, abs=TOLERANCE)


@pytest.mark.parametrize("length", [1, 2])
def test_a_draft_for_a_short_prompt(reference: Reference, prompts: list[Prompt], length: int) -> None:
    prompt = prompts[0][:length]
    alone = reference.ask("math", prompt, NUM_TOKENS)
    assert reference.ask("math", prompt, NUM_TOKENS, [*alone.tokens[:5], 7]).tokens == alone.tokens
