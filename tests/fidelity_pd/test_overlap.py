"""The overlap schedule across workers, which a GPU uses by default: all is exact with it as well.

The scheduler prepares a step before it has seen the tokens of the one before. Forced on CPU here. Tokens are those of
the reference, with retractions too, and with penalties, which know the latest token (SGLang as released: one late).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from prefillshare.contract import OVERLAP_VARIABLE
from tests.fidelity_pd.conftest import MODULES, NUM_TOKENS
from tests.fidelity_pd.test_exact import RETRACTION, check
from tests.support.marks import starts_engine
from tests.support.pd import TINY, Workers, deployment_file, pd_workers
from tests.support.penalties import PENALTIES, PenalizedReference, repeating_prompts

OVERLAP = {OVERLAP_VARIABLE: "1", "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0"}
WITHOUT = ("--disable-overlap-schedule",)
RETRACTED = "decode-tool-0"
NUM_PENALIZED = 16


@pytest.fixture(scope="module")
@starts_engine
def overlapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """`math` as it is, and `tool` with a retraction every five steps."""
    environment = {"prefill-0": OVERLAP, "decode-math-0": OVERLAP, RETRACTED: OVERLAP | RETRACTION}
    file = deployment_file(tmp_path_factory.mktemp("pd"), *MODULES)
    with pd_workers(file, environment=environment, without=WITHOUT) as workers:
        for name in environment:
            assert "disable_overlap_schedule=False" in workers.log(name), name
        yield workers


def test_tokens_are_exact(overlapping, prompts, expected, score):
    pair = overlapping.pairs["math"]
    for concurrency in (4, 12):
        check(prompts, pair.generate_all(prompts, NUM_TOKENS, concurrency), "math", expected, score)
        pair.flush()


def test_tokens_are_exact_after_retractions(overlapping, prompts, expected, score):
    pair = overlapping.pairs["tool"]
    answers = pair.generate_all(prompts, NUM_TOKENS, 12)
    check(prompts, answers, "tool", expected, score)
    assert any(answer.meta["num_retractions"] for answer in answers)
    pair.flush()


@pytest.fixture(scope="module")
def repeating() -> list[tuple[int, ...]]:
    return repeating_prompts(TINY / "base")


@pytest.fixture(scope="module")
def penalized_reference() -> PenalizedReference:
    return PenalizedReference(TINY / "base", {name: TINY / name for name in MODULES})


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("penalty", [name for name, _ in PENALTIES])
def test_penalties_know_every_token(overlapping, penalized_reference, repeating, module, penalty):
    pair, penalties = overlapping.pairs[module], {penalty: 2.0}
    asked = [*repeating] * 4

    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda p: pair.generate(p, NUM_PENALIZED, sampling_params=penalties).tokens, asked))
    wanted = [penalized_reference.penalized(module, prompt, NUM_PENALIZED, **penalties).tokens for prompt in repeating]
    assert answers == wanted * 4
