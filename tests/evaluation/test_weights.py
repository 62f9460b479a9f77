"""Modules decoded in process say what the shipped modules say when served."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.suites.registry import load
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.evaluation.weights import WeightsModel
from prefillshare.modules.deployment import ResolvedDeployment, resolve
from prefillshare.modules.manifest import read_manifest, write_manifest
from prefillshare.tiny.answers import TinyAnswers

MODELS = Path(__file__).parents[2] / "models"


@pytest.fixture(scope="module")
def agents() -> ResolvedDeployment:
    return resolve(load_deployment(MODELS / "tiny-agents.toml"))


@pytest.mark.parametrize("ratio", [1.0, 0.5])
def test_answers_are_those_of_the_reference(agents: ResolvedDeployment, ratio: float) -> None:
    suite = load_suite("tiny-math", 12)
    wanted = TinyAnswers(MODELS / "tiny", "math", sharing_ratio=ratio)
    score = WeightsModel(agents, "math", sharing_ratio=ratio).score(suite)
    assert [sample.answer for sample in score.samples] == wanted.answer(
        [list(question.messages) for question in suite.questions]
    )
    assert score.num_right >= 10 or ratio < 1
    assert all(sample.prompt_tokens > 100 for sample in score.samples)


def test_an_adapter_that_shares_nothing_is_decoded_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    text = (MODELS / "tiny-naive.toml").read_text().replace("accept_naive = true", "share = false")
    file.write_text(text.replace('path = "tiny/', f'path = "{MODELS}/tiny/'))
    deployment, suite = resolve(load_deployment(file)), load_suite("tiny-math", 6)
    served = WeightsModel(deployment, "math").score(suite)
    alone, shared = (WeightsModel(deployment, "math", sharing_ratio=ratio).score(suite) for ratio in (0.0, 1.0))
    assert served.samples == alone.samples
    assert served.num_right > shared.num_right


@pytest.fixture(scope="module")
def icarus() -> ResolvedDeployment:
    return resolve(load_deployment(MODELS / "tiny-icarus.toml"))


def test_a_module_over_base_kv_is_decoded_by_its_own_rule_and_is_worse_by_the_other(
    icarus: ResolvedDeployment, tmp_path: Path
) -> None:
    suite = load_suite("tiny-code", 12)
    chats = [list(question.messages) for question in suite.questions]
    shipped = MODELS / "tiny-icarus" / "code"
    score = WeightsModel(icarus, "code").score(suite)
    assert [sample.answer for sample in score.samples] == TinyAnswers(MODELS / "tiny", shipped.resolve()).answer(chats)
    # The same weights, taken for those of an ordinary module.
    folder = tmp_path / "code"
    shutil.copytree(shipped, folder)
    stated = read_manifest(folder)
    assert stated is not None
    write_manifest(folder, replace(stated, objective="cache-conditioned", kv_rule="own-answers"))
    other = score_answers(suite, "code", TinyAnswers(MODELS / "tiny", folder).answer(chats))
    print(f"{score.num_right} of 12 right, by the other rule {other.num_right}")
    assert other.num_right < score.num_right
    assert score.num_right >= 10


def test_a_module_over_base_kv_has_no_sharing_ratio(icarus: ResolvedDeployment) -> None:
    with pytest.raises(
        EvaluationError, match=r"ratio is 0\.5, and module 'code' has none, .*leave out --sharing-ratio"
    ):
        WeightsModel(icarus, "code", sharing_ratio=0.5)


def test_the_prefill_module_itself_can_be_asked(agents: ResolvedDeployment) -> None:
    score = WeightsModel(agents, "tiny-base").score(load_suite("tiny-math", 2))
    assert (score.model, score.num_right) == ("tiny-base", 0)


def test_full_weights_say_what_the_adapter_says(agents: ResolvedDeployment) -> None:
    across_workers = resolve(load_deployment(MODELS / "tiny-agents-pd.toml"))
    suite = load("bfcl-simple", directory=None, limit=4, may_run_code=False)
    scores = [WeightsModel(deployment, "tool").score(suite) for deployment in (agents, across_workers)]
    assert [sample.answer for sample in scores[0].samples] == [sample.answer for sample in scores[1].samples]


def test_an_unknown_module_names_the_nearest(agents: ResolvedDeployment) -> None:
    with pytest.raises(EvaluationError, match="has no module 'maths': did you mean 'math'"):
        WeightsModel(agents, "maths")
