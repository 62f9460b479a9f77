"""Served tokens equal the reference computation, however the engine gets there (I3, I4, I5).

51 held-out prompts x 3 decode modules (and the base) x engine configurations x cold, warm, mixed, and conversations in
turns. Greedy tokens must be identical; log-probabilities of y_1 agree within 1e-4.
"""

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sglang_patches.prefill.underway import MIN_TOKENS
from tests.fidelity.conftest import MODULES, NUM_TOKENS, Expected, Prompt
from tests.support.engines import (
    MODELS_DIR,
    TINY_AGENTS,
    Answer,
    Endpoint,
    engine_state,
    shared_engine,
    with_key,
    with_prefill_key,
)
from tests.support.marks import starts_engine
from tests.support.penalties import PENALTIES, PenalizedReference, repeating_prompts
from tests.support.reference import Reference
from tests.support.scores import Score
from tests.support.stores import stored_agents, whole_pages
from tests.support.waiting import wait_until

LOGPROB_TOLERANCE = 1e-4
NUM_TURNS = 3
TINY = MODELS_DIR / "tiny"
NEW = (30, 31, 32)
"""What a conversation says between two calls."""
DEADLINE_S = 120.0

Asked = tuple[Prompt, str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How an engine is started."""

    page_size: int = 1
    args: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    overlaps: bool = True
    """Whether the next batch is prepared while one runs, as on a GPU."""
    is_stored: bool = False
    """Whether there is a store, and answers of every length are computed ahead: those here are shorter than the
    default asks for."""

    def file(self, folder: Path, file: Path = TINY_AGENTS) -> Path:
        """The deployment file, written below `folder` where it is not `file` as it is."""
        if self.is_stored:
            file = with_prefill_key(stored_agents(folder, 'memory = "192 MiB"\n'), "eager_min_tokens = 1", folder)
        return with_key(file, "engine", "overlap_schedule = true", folder) if self.overlaps else file


DEFAULT = Configuration(overlaps=False)
CONFIGURATIONS = {
    "page 1": DEFAULT,
    "page 16, chunk 64, mixed batches": Configuration(
        page_size=16, args=("--page-size", "16", "--chunked-prefill-size", "64", "--enable-mixed-chunk")
    ),
    "page 1, chunk 64, overlap": Configuration(args=("--chunked-prefill-size", "64")),
    "page 16, retraction every 5 steps": Configuration(
        page_size=16,
        args=("--page-size", "16", "--chunked-prefill-size", "64"),
        environment=(("SGLANG_TEST_RETRACT", "1"), ("SGLANG_TEST_RETRACT_INTERVAL", "5")),
    ),
    "page 1, pool of 1600 tokens": Configuration(args=("--max-total-tokens", "1600", "--chunked-prefill-size", "256")),
}
STORED = {
    "page 16, chunk 64, mixed batches, answers ahead, store": Configuration(
        page_size=16,
        args=("--chunked-prefill-size", "64", "--enable-mixed-chunk", "--max-total-tokens", "4096"),
        is_stored=True,
    )
}
"""Pool and host tier have room for three quarters of the prompts: what was used longest ago is in the store."""
ALL = CONFIGURATIONS | STORED


@pytest.fixture(scope="module", params=ALL, ids=lambda name: name)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return ALL[request.param]


@pytest.fixture(scope="module")
@starts_engine
def engine(
    configuration: Configuration, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    if configuration == DEFAULT:
        yield request.getfixturevalue("agents")
        return
    file = configuration.file(tmp_path_factory.mktemp("configured"))
    with shared_engine(file, *configuration.args, environment=dict(configuration.environment)) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def turns(prompts: list[Prompt], reference: Reference) -> Expected:
    """Three conversations that no other test has, one after the other: in each the modules take turns, and every prompt
    goes on where the answer before it ended."""
    found = Expected(reference)
    for number, prompt in enumerate(prompts[:3]):
        context = (*NEW, *prompt)
        for turn in range(NUM_TURNS):
            module = MODULES[(number + turn) % len(MODULES)]
            context = (*context, *found[context, module].tokens, *NEW)
    return found


def check(
    asked: Sequence[Asked],
    answers: Sequence[Answer],
    expected: Expected,
    score: Score,
) -> None:
    """Count exact answers and the largest difference; report the first prompts that differ."""
    wrong = []
    for pair, answer in zip(asked, answers, strict=True):
        want = expected.given(pair, answer.tokens)
        score.total += 1
        score.exact += answer.tokens == want.tokens
        if answer.tokens != want.tokens:
            wrong.append((pair[1], len(pair[0]), answer.cached_tokens, answer.tokens, want.tokens))
        difference = abs(answer.first_logprob - want.logprobs[0])
        score.largest_logprob_difference = max(score.largest_logprob_difference, difference)
    assert not wrong, f"{len(wrong)} of {score.total} differ; (module, prompt tokens, cached, got, want): {wrong[:3]}"
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
    check(first, engine.generate_all(first, NUM_TOKENS, 4), expected, score)

    others = [(p, m) for p, asked in first for m in (*MODULES, None) if m != asked]
    answers = engine.generate_all(others, NUM_TOKENS, 4)
    check(others, answers, expected, score)
    if "1600" not in configuration.args:  # that pool is too small to keep every prompt
        for (prompt, _), answer in zip(others, answers, strict=True):
            assert is_base_made_prefix(answer.cached_tokens, prompt, configuration.page_size)


def test_sixteen_at_a_time(engine, configuration, prompts, expected, score):
    """All modules and the base at once, in random order, from an empty cache."""
    engine.flush()
    asked = [(prompt, module) for prompt in prompts for module in (*MODULES, None)]
    Random(0).shuffle(asked)
    check(asked, engine.generate_all(asked, NUM_TOKENS, 16), expected, score)


def test_asked_together_a_prompt_is_computed_once(engine, configuration, prompts, expected, score):
    """One call of all modules and the base: the engine sees them in one scheduling round."""
    modules = (*MODULES, None)
    for prompt in prompts[:6]:
        engine.flush()
        asked = [(prompt, module) for module in modules]
        answers = engine.generate_batch(asked, NUM_TOKENS)
        check(asked, answers, expected, score)
        first, *others = sorted(answer.cached_tokens for answer in answers)
        reused = base_made_prefix(prompt, configuration.page_size)
        assert first == 0
        # For a last chunk that is short nobody waits.
        longest_rest = MIN_TOKENS if "--chunked-prefill-size" in configuration.args else 1
        assert all(reused - longest_rest < cached < len(prompt) for cached in others)


def test_penalties_know_every_token_of_the_answer_and_no_other(engine, prompts, score):
    """Steps that overlap, mixed batches and retractions included; each of these prompts ends in what is likely next."""
    reference = PenalizedReference(TINY / "base", {name: TINY / name for name in MODULES})
    asked = [*repeating_prompts(TINY / "base"), *((*prompt, prompt[-2], prompt[-1]) for prompt in prompts[:3])]
    wanted = {
        (prompt, module, name): reference.penalized(module, prompt, NUM_TOKENS, **{name: value}).tokens
        for prompt, module in zip(asked, itertools.cycle(MODULES), strict=False)
        for name, value in PENALTIES
    }
    values = dict(PENALTIES)

    def ask(of: tuple[Prompt, str, str]) -> list[int]:
        params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, of[2]: values[of[2]]}
        return engine.generate(of[0], of[1], NUM_TOKENS, sampling_params=params).tokens

    with ThreadPoolExecutor(len(wanted)) as pool:
        answers = dict(zip(wanted, pool.map(ask, wanted), strict=True))
    score.total, score.exact = len(wanted), sum(answers[of] == want for of, want in wanted.items())
    assert answers == wanted


def test_conversations_in_turns(engine, configuration, prompts, turns, score):
    """The next prompt finds what the answer before it has left, which is all of it where answers are computed ahead."""
    engine.flush()
    answers = [ask_in_turn(engine, configuration, pair) for pair in turns]
    check(list(turns), answers, turns, score)
    for number, ((prompt, _), answer) in enumerate(zip(turns, answers, strict=True)):
        if number % NUM_TURNS:
            assert found_at_least(prompt, configuration) <= answer.cached_tokens < len(prompt)
    if configuration.is_stored:
        check_stored(engine, configuration, prompts, turns, score)


def ask_in_turn(engine: Endpoint, configuration: Configuration, pair: Asked) -> Answer:
    """One call, and the slice that follows its answer: that is longer than a page, and shorter than a slice may be."""
    before = count(engine, "eager", "tokens")
    answer = engine.generate(*pair, NUM_TOKENS)
    if configuration.is_stored:
        wait_for_more(engine, "eager", "tokens", before)
    return answer


def found_at_least(prompt: Prompt, configuration: Configuration) -> int:
    """Tokens that a prompt finds of the turn before it, in whole pages: of its answer as well, if computed ahead."""
    if configuration.is_stored:
        return (len(prompt) - len(NEW)) // configuration.page_size * configuration.page_size
    return base_made_prefix(prompt[: -len(NEW) - NUM_TOKENS], configuration.page_size)


def check_stored(
    engine: Endpoint,
    configuration: Configuration,
    prompts: Sequence[Prompt],
    turns: Expected,
    score: Score,
) -> None:
    """All whole pages of the conversations, answers included, are in the store, and come back from there."""
    last = list(turns)[NUM_TURNS - 1 :: NUM_TURNS]
    num_pages = sum((len(prompt) + NUM_TOKENS) // configuration.page_size for prompt, _ in last)
    wait_for_more(engine, "store", "num_pages", num_pages - 1)
    engine.generate_all([(prompt, None) for prompt in prompts], 1, 4)  # which pool and host tier have no room for
    again = engine.generate_all(last, NUM_TOKENS, 1)
    check(last, again, turns, score)
    for (prompt, _), answer in zip(last, again, strict=True):
        # The beginning, which other prompts have as well, may be in the pool.
        assert answer.cached_tokens == whole_pages(len(prompt))
        assert answer.report["store_hit_tokens"] > NUM_TURNS * NUM_TOKENS


def count(engine: Endpoint, part: str, name: str) -> int:
    """A number of what the engine tells of itself."""
    told: dict[str, Any] = engine_state(engine.http)["workers"][0]
    found: int = told[part][name]
    return found


def wait_for_more(engine: Endpoint, part: str, name: str, number: int) -> None:
    """Wait until the count is above `number`."""
    wait_until(
        lambda: count(engine, part, name) > number,
        lambda: f"{part} {name} is {count(engine, part, name)}, and was to rise above {number}",
        within_s=DEADLINE_S,
    )
