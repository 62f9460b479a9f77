"""Modules decoded in process say what the shipped modules say when served."""

from pathlib import Path

import pytest

from prefillshare.config import load_deployment
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.suites.registry import load
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.evaluation.weights import WeightsModel
from prefillshare.modules.deployment import ResolvedDeployment, resolve
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
