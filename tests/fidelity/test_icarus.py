"""Modules that read base-made KV only: served tokens equal the reference of that rule, beside ordinary modules.

Prompts x modules of both rules (and the base) x engine configurations x cold, warm and mixed. All KV of such a request
is the prefill module's, so the next turn finds the answer cached, whichever module asks.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

import pytest

from tests.fidelity.icarus_expected import LOGPROB_TOLERANCE, Rules, greedy_with_penalty
from tests.fidelity.icarus_family import ORDINARY, PAIRED, TWIN, make_icarus_family
from tests.fidelity.test_matches_reference import CONFIGURATIONS, Configuration, is_base_made_prefix
from tests.support.engines import Endpoint, shared_engine
from tests.support.marks import starts_engine

NUM_TOKENS = 16
PENALTY = 1.5
MODULES = (*PAIRED, *ORDINARY, None)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_icarus_family(tmp_path_factory.mktemp("icarus"))


@pytest.fixture(scope="module")
def rules(family: Path) -> Rules:
    return Rules(family.parent)


@pytest.fixture(scope="module")
def few(prompts) -> list[tuple[int, ...]]:
    """Prompts of each task."""
    return prompts[:9]


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda name: name)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


@pytest.fixture(scope="module")
@starts_engine
def engine(configuration: Configuration, family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    file = configuration.file(tmp_path_factory.mktemp("configured"), family)
    with shared_engine(file, *configuration.args, environment=dict(configuration.environment)) as endpoint:
        yield endpoint


def is_small(configuration: Configuration) -> bool:
    """Whether the pool is too small to keep every prompt."""
    return "1600" in configuration.args


def test_cold_then_warm(engine, configuration, few, rules, score):
    """Each prompt is first asked of a module of either rule; the others then hit all that is base-made."""
    engine.flush()
    first = [(prompt, MODULES[i % len(MODULES)]) for i, prompt in enumerate(few)]
    rules.check(first, engine.generate_all(first, NUM_TOKENS, 3), score)
    others = [(prompt, module) for prompt, asked in first for module in MODULES if module != asked]
    answers = engine.generate_all(others, NUM_TOKENS, 4)
    rules.check(others, answers, score)
    if not is_small(configuration):
        for (prompt, _), answer in zip(others, answers, strict=True):
            assert is_base_made_prefix(answer.cached_tokens, prompt, configuration.page_size)
    assert score.largest_logprob_difference <= LOGPROB_TOLERANCE


def test_sixteen_at_a_time(engine, few, rules, score):
    """Both rules and the base in one batch, in random order, from an empty cache."""
    engine.flush()
    asked = [(prompt, module) for prompt in few for module in MODULES]
    Random(0).shuffle(asked)
    rules.check(asked, engine.generate_all(asked, NUM_TOKENS, 16), score)


def test_a_penalty_counts_every_token_that_the_module_said(engine, few, rules, score):
    """Beside ordinary modules, in steps that overlap and batches that are mixed, and after retractions."""
    asked = [(prompt, module) for prompt in few[:4] for module in (*PAIRED, *ORDINARY)]
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "frequency_penalty": PENALTY}
    with ThreadPoolExecutor(len(asked)) as pool:
        given = pool.map(lambda pair: engine.generate(*pair, NUM_TOKENS, sampling_params=params).tokens, asked)
        answers = [(pair, tokens) for pair, tokens in zip(asked, given, strict=True) if pair[1] in PAIRED]
    for (prompt, module), tokens in answers:
        scores = rules.scores(module, prompt, tuple(tokens))
        score.total += 1
        score.exact += tokens == greedy_with_penalty(scores, tokens, PENALTY)
    assert score.exact == score.total > 0


def test_the_next_turn_finds_the_answer_cached_whoever_asks(engine, configuration, few, rules, score):
    for prompt, writer in zip(few, PAIRED, strict=False):
        engine.flush()
        said = engine.generate(prompt, writer, NUM_TOKENS)
        turn = (*prompt, *said.tokens, *prompt[:9])
        for module in MODULES:
            answer = engine.generate(turn, module, NUM_TOKENS)
            rules.check([(turn, module)], [answer], score)
            # The step that would read the last token may never have run.
            known = len(prompt) + NUM_TOKENS - 1
            assert answer.cached_tokens >= known // configuration.page_size * configuration.page_size


def test_both_rules_are_told_apart(engine, few):
    """The same weights under the other rule say something else: an exact answer means that its own rule was kept."""
    asked = [(prompt, module) for prompt in few for module in (PAIRED[0], TWIN)]
    answers = [answer.tokens for answer in engine.generate_all(asked, NUM_TOKENS, 4)]
    assert all(paired != own for paired, own in zip(answers[::2], answers[1::2], strict=True))
