"""Served tokens equal the reference computation, however the engine gets there (I3, I5).

51 held-out prompts x 3 decode modules (and the base) x engine configurations x cold, warm and mixed. Greedy tokens must
be identical; log-probabilities of y_1 agree within 1e-4.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

import pytest

from sglang_patches.prefill.underway import MIN_TOKENS
from tests.fidelity.conftest import MODULES, NUM_TOKENS, Prompt
from tests.support.engines import TINY_AGENTS, Answer, Endpoint, shared_engine
from tests.support.marks import starts_engine
from tests.support.reference import Continuation
from tests.support.scores import Score

LOGPROB_TOLERANCE = 1e-4

Asked = tuple[Prompt, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How an engine is started."""

    page_size: int = 1
    args: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    has_exact_logprobs: bool = True
    """SGLang 0.5.17 can lose y_1's log-probability of a request retracted right after its prefill, patched or not."""


CONFIGURATIONS = {
    "page 1, overlap": Configuration(),
    "page 16, chunk 64, mixed batches": Configuration(
        page_size=16, args=("--page-size", "16", "--chunked-prefill-size", "64", "--enable-mixed-chunk")
    ),
    "page 1, chunk 64, no overlap": Configuration(args=("--chunked-prefill-size", "64", "--disable-overlap-schedule")),
    "page 16, retraction every 5 steps": Configuration(
        page_size=16,
        args=("--page-size", "16", "--chunked-prefill-size", "64"),
        environment=(("SGLANG_TEST_RETRACT", "1"), ("SGLANG_TEST_RETRACT_INTERVAL", "5")),
        has_exact_logprobs=False,
    ),
    "page 1, pool of 1600 tokens": Configuration(
        args=("--max-total-tokens", "1600", "--chunked-prefill-size", "256"), has_exact_logprobs=False
    ),
}


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda name: name)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


@pytest.fixture(scope="module")
@starts_engine
def engine(configuration: Configuration, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    if configuration == Configuration():
        yield request.getfixturevalue("agents")
        return
    with shared_engine(TINY_AGENTS, *configuration.args, environment=dict(configuration.environment)) as endpoint:
        yield endpoint


def check(
    asked: Sequence[Asked],
    answers: Sequence[Answer],
    expected: dict[Asked, Continuation],
    score: Score,
    configuration: Configuration,
) -> None:
    """Count exact answers and the largest difference; report the first prompts that differ."""
    wrong = []
    for pair, answer in zip(asked, answers, strict=True):
        want = expected[pair]
        score.total += 1
        score.exact += answer.tokens == want.tokens
        if answer.tokens != want.tokens:
            wrong.append((pair[1], len(pair[0]), answer.cached_tokens, answer.tokens, want.tokens))
        difference = abs(answer.first_logprob - want.logprobs[0])
        score.largest_logprob_difference = max(score.largest_logprob_difference, difference)
    assert not wrong, f"{len(wrong)} of {score.total} differ; (module, prompt tokens, cached, got, want): {wrong[:3]}"
    if configuration.has_exact_logprobs:
        assert score.largest_logprob_difference <= LOGPROB_TOLERANCE


def base_made_prefix(prompt: Prompt, page_size: int) -> int:
    """Tokens that a decode module finds when another one has prefilled the prompt: n-1, in whole pages."""
    return (len(prompt) - 1) // page_size * page_size


def is_base_made_prefix(cached_tokens: int, prompt: Prompt, page_size: int) -> bool:
    """Whether a decode module found what another one has prefilled: the whole pages, and as the case may be what is
    begun of the last one, which the first who asks takes over."""
    return base_made_prefix(prompt, page_size) <= cached_tokens < len(prompt)


def test_cold_then_warm(engine, configuration, prompts, expected, score):
    """Each prompt is first asked of one module, then of the other two, which must hit all that is base-made."""
    engine.flush()
    first = [(prompt, MODULES[i % 3]) for i, prompt in enumerate(prompts)]
    check(first, engine.generate_all(first, NUM_TOKENS, 4), expected, score, configuration)

    others = [(p, m) for p, asked in first for m in (*MODULES, None) if m != asked]
    answers = engine.generate_all(others, NUM_TOKENS, 4)
    check(others, answers, expected, score, configuration)
    if "1600" not in configuration.args:  # that pool is too small to keep every prompt
        for (prompt, _), answer in zip(others, answers, strict=True):
            assert is_base_made_prefix(answer.cached_tokens, prompt, configuration.page_size)


def test_sixteen_at_a_time(engine, configuration, prompts, expected, score):
    """All modules and the base at once, in random order, from an empty cache."""
    engine.flush()
    asked = [(prompt, module) for prompt in prompts for module in (*MODULES, None)]
    Random(0).shuffle(asked)
    check(asked, engine.generate_all(asked, NUM_TOKENS, 16), expected, score, configuration)


def test_asked_together_a_prompt_is_computed_once(engine, configuration, prompts, expected, score):
    """One call of all modules and the base: the engine sees them in one scheduling round."""
    modules = (*MODULES, None)
    for prompt in prompts[:6]:
        engine.flush()
        asked = [(prompt, module) for module in modules]
        answers = engine.generate_batch(asked, NUM_TOKENS)
        check(asked, answers, expected, score, configuration)
        first, *others = sorted(answer.cached_tokens for answer in answers)
        reused = base_made_prefix(prompt, configuration.page_size)
        assert first == 0
        # For a last chunk that is short nobody waits.
        longest_rest = MIN_TOKENS if "--chunked-prefill-size" in configuration.args else 1
        assert all(reused - longest_rest < cached < len(prompt) for cached in others)
