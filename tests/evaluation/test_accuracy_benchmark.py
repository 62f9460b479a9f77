"""The accuracy benchmark end to end, on a recipe of seconds: real trainings and answers, and it goes on."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy.plan import Measurement, Recipe, Run, steps
from benchmarks.accuracy.progress import describe_remaining
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.store import Store
from benchmarks.accuracy.train import Trained
from tests.support.marks import takes_long

ROOT = Path(__file__).parents[2]


def command(directory: Path, *options: str) -> list[str]:
    part = ("--tasks", "math", "--seeds", "1", "--conversations", "10", "--problems", "2", "--threads", "1")
    places = ("--work", str(directory / "work"), "--out", str(directory / "out"))
    return [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy", *part, *places, *options]


def run(directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command(directory, *options), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


def results(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "out" / "accuracy.json").read_text())
    return content


@pytest.fixture(scope="module")
@takes_long
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a measurement at two sharing ratios."""
    directory = tmp_path_factory.mktemp("accuracy")
    done = run(directory, "--ratios", "0,1")
    assert done.returncode == 0, done.stderr
    return directory


def test_every_way_of_training_is_measured(measured: Path) -> None:
    content = results(measured)
    assert set(content["trainings"]) == {"math-full-ft-1", "math-full-1", "math-lora-1", "math-icarus-1"}
    assert all(training["loss"] > 0 for training in content["trainings"].values())
    assert set(content["accuracies"]) == {
        *("math-base-100", "math-full-ft-1-0", "math-full-ft-1-100", "math-full-1-0", "math-full-1-100"),
        *("math-lora-1-100", "math-icarus-1-100"),
    }
    assert all(accuracy["num_problems"] == 2 for accuracy in content["accuracies"].values())


def test_the_report_has_each_row_and_a_plot(measured: Path) -> None:
    report = (measured / "out" / "accuracy.md").read_text()
    for label in (
        "base alone",
        "Full-FT",
        "PrefillShare, all weights",
        "PrefillShare, LoRA",
        "ICaRus",
        "naive sharing",
    ):
        assert label in report
    assert "not yet" not in report
    assert (measured / "out" / "accuracy.svg").stat().st_size > 1000


def test_a_second_call_trains_nothing_and_adds_what_is_new(measured: Path) -> None:
    before = results(measured)
    done = run(measured, "--ratios", "0,0.5,1")
    assert done.returncode == 0, done.stderr
    assert ": training" not in done.stderr
    after = results(measured)
    assert after["trainings"] == before["trainings"]
    assert set(after["accuracies"]) - set(before["accuracies"]) == {"math-full-ft-1-50", "math-full-1-50"}
    assert all(after["accuracies"][name] == accuracy for name, accuracy in before["accuracies"].items())


def test_another_recipe_is_refused(measured: Path) -> None:
    done = run(measured, "--problems", "3")
    assert done.returncode == 1
    assert "was made by another recipe" in done.stderr


def test_an_unknown_kind_is_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--kinds", "lora,icarius")
    assert done.returncode == 1
    assert "there is no kind 'icarius': choose from full-ft, full, lora, icarus" in done.stderr


def test_too_few_conversations_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--conversations", "9")
    assert done.returncode == 1
    assert "9 conversations of math are less than 5 steps: give 10" in done.stderr


@pytest.mark.long
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    """Killed in the second training: the first one and its measurements stay as they are."""
    second = tmp_path / "work"
    with subprocess.Popen(command(tmp_path, "--ratios", "0,1"), cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(second.glob("*/math-full-1/run")):
            time.sleep(0.05)
        assert process.poll() is None, "it ended before it could be killed"
        process.kill()
    before = results(tmp_path)
    assert set(before["trainings"]) == {"math-full-ft-1"}
    done = run(tmp_path, "--ratios", "0,1", "--kinds", "full-ft,full,lora")
    assert done.returncode == 0, done.stderr
    assert "math-full-ft-1: training" not in done.stderr
    after = results(tmp_path)
    assert set(after["trainings"]) == {"math-full-ft-1", "math-full-1", "math-lora-1"}
    assert after["trainings"]["math-full-ft-1"] == before["trainings"]["math-full-ft-1"]
    assert all(after["accuracies"][name] == accuracy for name, accuracy in before["accuracies"].items())


def test_a_seed_is_complete_before_the_next_and_its_table_before_its_curve() -> None:
    recipe = Recipe(tasks=("math", "tool"), seeds=(1, 2))
    names = [
        (measurement.name, measurement.run and measurement.run.seed)
        for _, wanted in steps(recipe)
        for measurement in wanted
    ]
    assert [seed for _, seed in names] == sorted(seed or 0 for _, seed in names)
    first = [name for name, seed in names if seed == 1]
    table = {f"{task}-{row}" for task in recipe.tasks for row in ("full-ft-1-0", "full-ft-1-100", "full-1-100")}
    table |= {f"{task}-{adapter}-1-100" for task in recipe.tasks for adapter in ("lora", "icarus")}
    assert set(first[: len(table)]) == table
    curve = {f"{task}-{kind}-1-{r}" for task in recipe.tasks for kind in ("full-ft", "full") for r in (25, 50, 75)}
    assert set(first[len(table) :]) == curve | {f"{task}-full-1-0" for task in recipe.tasks}


def filled(file: Path, recipe: Recipe, own: tuple[int, ...], shared: tuple[int, ...]) -> Store:
    """Right answers of 500 per seed: ordinary without sharing, and cache-conditioned."""
    store = Store(file, recipe)
    for trained, ratio, counts in (("full-ft", 0.0, own), ("full", 1.0, shared)):
        for seed, num_right in enumerate(counts, start=1):
            trained_run = Run(task="math", trained="full-ft" if trained == "full-ft" else "full", seed=seed)
            store.add_training(trained_run, Trained(loss=0.1, seconds=60.0))
            store.add_accuracy(Measurement(task="math", run=trained_run, ratio=ratio), num_right, 500, 60.0)
    return store


@pytest.mark.parametrize(
    ("own", "shared", "verdict"),
    [
        ((500, 499), (495, 494), "-1.0 (-1.0 to -1.0) | met"),
        ((500, 499), (495, 493), "-1.1 (-1.2 to -1.0) | **missed**"),
        ((490, 500), (490,), "+0.0 (+0.0 to +0.0) | met"),
    ],
)
def test_verdicts_compare_seed_by_seed(
    tmp_path: Path, own: tuple[int, ...], shared: tuple[int, ...], verdict: str
) -> None:
    recipe = Recipe(tasks=("math",), seeds=(1, 2))
    write_report(recipe, filled(tmp_path / "accuracy.json", recipe, own, shared), tmp_path)
    assert verdict in (tmp_path / "accuracy.md").read_text()


def test_a_row_says_which_seeds_it_lacks(tmp_path: Path) -> None:
    recipe = Recipe(tasks=("math",), seeds=(1, 2))
    write_report(recipe, filled(tmp_path / "accuracy.json", recipe, (500, 490), (495,)), tmp_path)
    report = (tmp_path / "accuracy.md").read_text()
    assert "| Full-FT: ordinary, all weights, own KV | 99.0 (98.0 to 100.0) |" in report
    assert "| PrefillShare, all weights, shared KV | 99.0 (1 of 2 seeds) |" in report


def test_a_point_of_the_curve_says_which_seeds_it_lacks(tmp_path: Path) -> None:
    recipe = Recipe(tasks=("math",), seeds=(1, 2), ratios=(0.0, 1.0))
    write_report(recipe, filled(tmp_path / "accuracy.json", recipe, (500, 490), (500,)), tmp_path)
    report = (tmp_path / "accuracy.md").read_text()
    assert "| tiny-math, naive sharing | 99.0 | not yet |" in report
    assert "| tiny-math, PrefillShare, all weights | not yet | 100.0 (1 of 2 seeds) |" in report


def test_what_is_left_is_told_from_what_the_same_kind_took(tmp_path: Path) -> None:
    recipe = Recipe(tasks=("math",), seeds=(1, 2), ratios=(0.0, 1.0))
    store = filled(tmp_path / "accuracy.json", recipe, (500,), (500,))
    assert describe_remaining(recipe, store) == "6 trainings and 10 measurements are left, about 16 min"


def test_calls_side_by_side_fill_one_file(tmp_path: Path) -> None:
    recipe = Recipe(tasks=("math",), seeds=(1, 2))
    stores = [Store(tmp_path / "accuracy.json", replace(recipe, seeds=(seed,))) for seed in recipe.seeds]
    for store, seed in zip(stores, recipe.seeds, strict=True):
        store.add_training(Run(task="math", trained="full", seed=seed), Trained(loss=0.1, seconds=60.0))
    assert set(Store(tmp_path / "accuracy.json", recipe).trainings) == {"math-full-1", "math-full-2"}
