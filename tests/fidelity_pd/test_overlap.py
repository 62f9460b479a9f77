"""The overlap schedule across workers, which a GPU uses by default: what is exact with it, and what is not.

The scheduler prepares a step before it has seen the tokens of the one before. Forced on CPU here. Tokens are those of
the reference, with retractions too. One thing differs from the schedule without overlap, and is asserted as it is:
penalties hear of a token one step late, as on SGLang as released.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from transformers import AutoTokenizer

from prefillshare.contract import OVERLAP_VARIABLE
from tests.fidelity_pd.conftest import MODULES, NUM_TOKENS
from tests.fidelity_pd.test_behaviour import PenalizedReference
from tests.fidelity_pd.test_exact import RETRACTION, check
from tests.support.marks import starts_engine
from tests.support.pd import TINY, Workers, deployment_file, pd_workers

OVERLAP = {OVERLAP_VARIABLE: "1", "SGLANG_DISAGG_PREFILL_EARLY_SEND_CACHED_PREFIX": "0"}
WITHOUT = ("--disable-overlap-schedule",)
RETRACTED = "decode-tool-0"
NUM_PENALIZED = 8


class LateReference(PenalizedReference):
    """The reference with penalties that do not know the latest token yet."""

    def _penalize(self, scores, seen):
        super()._penalize(scores, seen[:-1])


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
    """Prompts after which the module would say one token again and again."""
    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    return [tuple(tokenizer.encode(text)) for text in (":" * 16, "a" * 14, "3 " * 9 + "3")]


@pytest.fixture(scope="module")
def references() -> tuple[PenalizedReference, LateReference]:
    paths = TINY / "base", {name: TINY / name for name in MODULES}
    return PenalizedReference(*paths), LateReference(*paths)


@pytest.mark.parametrize("penalty", ["frequency_penalty", "presence_penalty", "repetition_penalty"])
def test_penalties_are_a_token_late(overlapping, references, repeating, penalty):
    pair, penalties = overlapping.pairs["math"], {penalty: 2.0}

    def wanted(reference: PenalizedReference) -> list[list[int]]:
        return [reference.penalized("math", prompt, NUM_PENALIZED, **penalties).tokens for prompt in repeating]

    with ThreadPoolExecutor(len(repeating)) as pool:
        asked = pool.map(lambda p: pair.generate(p, NUM_PENALIZED, sampling_params=penalties).tokens, repeating)
        answers = list(asked)
    in_time, late = map(wanted, references)
    assert answers == late
    assert answers != in_time, "upstream mended it: say so in docs/fidelity.md"
