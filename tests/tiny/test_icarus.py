"""The tasks as ICaRus modules: the build on a recipe of seconds, and the shipped ones."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from benchmarks.accuracy.plan import Recipe, Run
from benchmarks.accuracy.train import training_of as benchmark_training_of
from prefillshare.config import load_deployment
from prefillshare.errors import TrainingError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.modules.deployment import resolve
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.icarus import IcarusBuild, IcarusPlan, training_of
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.recipe import IcarusRecipe
from tests.support.marks import takes_long
from tests.support.training_runs import Watcher

MODELS = Path(__file__).parents[2] / "models"
SHIPPED = MODELS / "tiny-icarus"
BASE = MODELS / "tiny" / "base"
RECIPE = IcarusRecipe(num_conversations=dict.fromkeys(TASKS, 10), rank=2)
MAX_BYTES = 5 * 10**6


def plan_at(root: Path, recipe: IcarusRecipe = RECIPE) -> IcarusPlan:
    return IcarusPlan(recipe=recipe, base=BASE, out=root / "out", work=root / "work")


def build(plan: IcarusPlan) -> list[str]:
    watcher = Watcher()
    IcarusBuild(plan, watcher).run()
    return watcher.said


@pytest.fixture(scope="module")
@takes_long
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("icarus")
    before = torch.get_num_threads()
    build(plan_at(root))
    torch.set_num_threads(before)
    return root


def test_makes_modules_in_bfloat16_with_manifests(family: Path) -> None:
    for task in TASKS:
        manifest = read_manifest(family / "out" / task)
        assert manifest is not None
        assert (manifest.name, manifest.objective, manifest.kv_rule) == (f"tiny-icarus-{task}", "icarus", "all-base")
        assert manifest.prefill_fingerprint == prefill_fingerprint(BASE)
        assert manifest.training == {"recipe": json.loads(json.dumps(asdict(RECIPE))), "task": task}
        tensors, trained = (load_file(family / name / task / "adapter_model.safetensors") for name in ("out", "work"))
        assert all(torch.equal(tensor, trained[name].to(torch.bfloat16)) for name, tensor in tensors.items())
        assert tensors.keys() == trained.keys()
    assert len(json.loads((family / "out" / "build.json").read_text())["weights"]) == 3


def test_a_second_call_trains_nothing(family: Path) -> None:
    said = build(plan_at(family))
    assert [line for line in said if "already there" in line] == [f"{task}: already there" for task in TASKS]
    assert not [line for line in said if "starts" in line]


def test_another_recipe_and_foreign_modules_are_refused(family: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"started with lora\.rank = 2 and now it is 4"):
        build(plan_at(family, replace(RECIPE, rank=4)))
    foreign = IcarusPlan(recipe=RECIPE, base=BASE, out=family / "out", work=tmp_path)
    with pytest.raises(TrainingError, match="already holds a finished math: give --fresh"):
        build(foreign)


@pytest.mark.parametrize("task", TASKS)
def test_the_recipe_is_that_of_the_accuracy_benchmarks_first_seed(task: str, tmp_path: Path) -> None:
    run = Run(task=task, trained="icarus", seed=1)  # type: ignore[arg-type]
    measured = benchmark_training_of(Recipe(), run, BASE, tmp_path / "rows.jsonl", tmp_path / "out")
    built = training_of(IcarusRecipe(), task, BASE, tmp_path / "rows.jsonl", tmp_path / "out")  # type: ignore[arg-type]
    assert replace(measured, name=built.name) == built
    assert Recipe().num_conversations == IcarusRecipe().num_conversations


def test_shipped_weights_are_small_and_over_the_shipped_base() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*/*.safetensors")) <= MAX_BYTES
    resolved = resolve(load_deployment(MODELS / "tiny-icarus.toml"))
    assert resolved.warnings == ()
    assert {module.manifest.kv_rule for module in resolved.modules if module.manifest} == {"all-base"}


@pytest.mark.long
@pytest.mark.parametrize("task", TASKS)
def test_shipped_modules_solve_held_out_problems(task: str) -> None:
    suite = load_suite(f"tiny-{task}", 40)
    answers = TinyAnswers(MODELS / "tiny", (SHIPPED / task).resolve(), dtype=torch.float32).answer(
        [list(question.messages) for question in suite.questions]
    )
    score = score_answers(suite, task, answers)
    print(f"{suite.name}: {score.num_right} of 40, all KV the base's")
    assert score.accuracy >= 0.85
