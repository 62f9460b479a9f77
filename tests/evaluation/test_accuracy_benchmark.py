"""The accuracy benchmark end to end, on a recipe of seconds: real trainings and answers, and it goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    part = ("--tasks", "math", "--seeds", "1", "--conversations", "20", "--problems", "2", "--threads", "1")
    places = ("--work", str(directory / "work"), "--out", str(directory / "out"))
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.accuracy", *part, *places, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a measurement at two sharing ratios."""
    directory = tmp_path_factory.mktemp("accuracy")
    done = run(directory, "--ratios", "0,1")
    assert done.returncode == 0, done.stderr
    return directory


def test_every_way_of_training_is_measured(measured: Path) -> None:
    content = json.loads((measured / "out" / "accuracy.json").read_text())
    assert set(content["trainings"]) == {"math-full-ft-1", "math-full-1", "math-lora-1"}
    assert all(training["loss"] > 0 for training in content["trainings"].values())
    assert set(content["accuracies"]) == {
        *("math-base-100", "math-full-ft-1-0", "math-full-ft-1-100", "math-full-1-0", "math-full-1-100"),
        "math-lora-1-100",
    }
    assert all(one["num_problems"] == 2 for one in content["accuracies"].values())


def test_the_report_has_each_row_and_a_plot(measured: Path) -> None:
    report = (measured / "out" / "accuracy.md").read_text()
    for label in ("base alone", "Full-FT", "PrefillShare, all weights", "PrefillShare, LoRA", "naive sharing"):
        assert label in report
    assert "not yet" not in report
    assert (measured / "out" / "accuracy.svg").stat().st_size > 1000


def test_a_second_call_trains_nothing_and_adds_what_is_new(measured: Path) -> None:
    before = json.loads((measured / "out" / "accuracy.json").read_text())
    done = run(measured, "--ratios", "0,0.5,1")
    assert done.returncode == 0, done.stderr
    after = json.loads((measured / "out" / "accuracy.json").read_text())
    assert after["trainings"] == before["trainings"]
    assert set(after["accuracies"]) - set(before["accuracies"]) == {"math-full-ft-1-50", "math-full-1-50"}
    assert all(after["accuracies"][name] == one for name, one in before["accuracies"].items())


def test_another_recipe_is_refused(measured: Path) -> None:
    done = run(measured, "--problems", "3")
    assert done.returncode == 1
    assert "was made by another recipe" in done.stderr
