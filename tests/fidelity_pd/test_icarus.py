"""A module that reads base-made KV only on a decode worker: exact, and its answers stay there for the next turn.

The hand-off is the same; the first step computes x_n with the prefill module, which keeps its KV, and with the adapter.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fidelity.icarus_expected import LOGPROB_TOLERANCE, Rules
from tests.fidelity.icarus_family import PAIRED, make_icarus_family
from tests.fidelity_pd.conftest import Prompt
from tests.fidelity_pd.test_exact import CONFIGURATIONS, Configuration
from tests.support.marks import starts_engine
from tests.support.pd import BASE_NAME, TINY, Answer, Pair, Workers, pd_workers
from tests.support.scores import Score

MODULE = PAIRED[0]
NUM_TOKENS = 16
CHOSEN = ("page 1", "page 16, retraction every 5 steps, over NIXL")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_icarus_family(tmp_path_factory.mktemp("icarus")).parent


@pytest.fixture(scope="module")
def rules(family: Path) -> Rules:
    return Rules(family)


@pytest.fixture(scope="module", params=CHOSEN)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


@pytest.fixture(scope="module")
@starts_engine
def started(configuration: Configuration, family: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    file = tmp_path_factory.mktemp("pd") / "pd.toml"
    file.write_text(
        'name = "pd"\ntopology = "disaggregated"\n'
        f'[prefill]\nname = "{BASE_NAME}"\npath = "{TINY / "base"}"\n'
        f'[[decode]]\nname = "{MODULE}"\nkind = "lora"\npath = "{family / MODULE}"\n'
        f'[engine]\ndtype = "float32"\npage_size = {configuration.page_size}\n'
    )
    environment = {f"decode-{MODULE}-0": configuration.environment()}
    with pd_workers(file, *configuration.args, environment=environment) as workers:
        yield workers


@pytest.fixture
def pair(started: Workers) -> Pair:
    pair = started.pairs[MODULE]
    pair.flush()
    return pair


def check(prompts: Sequence[Prompt], answers: Sequence[Answer], rules: Rules, score: Score) -> None:
    rules.check([(prompt, MODULE) for prompt in prompts], answers, score)
    assert score.largest_logprob_difference <= LOGPROB_TOLERANCE


def test_cold_then_warm_then_eight_at_a_time(pair, configuration, prompts, rules, score):
    few = prompts[:9]
    check(few, pair.generate_all(few, NUM_TOKENS, 1), rules, score)
    check(few, pair.generate_all(few, NUM_TOKENS, 4), rules, score)
    pair.flush()
    together = pair.generate_all(few, NUM_TOKENS, 8)
    check(few, together, rules, score)
    if configuration.has_retractions:
        assert sum(answer.meta["num_retractions"] for answer in together) > 0
    # Flushing needs idle workers, and an idle worker checks that no slot of its pool is lost.
    pair.flush()


def test_the_answer_is_not_moved_when_it_becomes_prompt(pair, configuration, prompts, rules, score):
    context, page_size, held = prompts[0], configuration.page_size, 0
    for turn in range(4):
        answer = pair.generate(context, NUM_TOKENS)
        check([context], [answer], rules, score)
        assert answer.handoff_tokens <= len(context) - held
        # The step that would read the last token may never have run.
        held = (len(context) + NUM_TOKENS - 1) // page_size * page_size
        context = (*context, *answer.tokens, *(10 + (turn * 31 + i * 7) % 500 for i in range(8)))


def test_a_prompt_that_is_held_as_a_whole_is_exact(pair, prompts, rules, score):
    """x_n's row is the tree's by then: it must not be given out again."""
    said = pair.generate(prompts[1], NUM_TOKENS)
    for num_known in (1, NUM_TOKENS // 2, NUM_TOKENS - 1):
        prompt = (*prompts[1], *said.tokens[:num_known])
        check([prompt], [pair.generate(prompt, NUM_TOKENS)], rules, score)
    pair.flush()
