"""The benchmarks of any sharing ratio and of adapters that go on, on a recipe of seconds, and their reports."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accuracy import adapters_back, any_ratio
from benchmarks.accuracy.tries import Results, percent
from prefillshare.errors import EvaluationError
from tests.support.marks import takes_long

ROOT = Path(__file__).parents[2]


def call(name: str, directory: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    places = ("--work", str(directory / "work"), "--out", str(directory / "out"))
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.accuracy.{name}", "--tasks", "math", *places]
    return subprocess.run(
        [*command, "--problems", "2", *options], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )


def entries(directory: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "out" / f"{name}.json").read_text())["entries"]
    return found


@pytest.fixture(scope="module")
@takes_long
def back(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a measurement of adapters that went on for five steps."""
    directory = tmp_path_factory.mktemp("back")
    done = call("adapters_back", directory, "--shares", "0.005", "--ways", "labels,states")
    assert done.returncode == 0, done.stderr
    return directory


def test_adapters_go_on_in_each_way_and_are_judged(back: Path) -> None:
    found = entries(back, "adapters-back")
    tried = {entry["way"]: entry for entry in found.values() if "way" in entry}
    assert set(tried) == {"labels", "states"}
    assert all((entry["num_steps"], entry["num_conversations"]) == (5, 10) for entry in tried.values())
    assert all(entry["num_problems"] == 2 for entry in found.values())
    report = (back / "out" / "adapters-back.md").read_text()
    assert "tiny-math, by the data alone" in report
    assert "tiny-math, and by its hidden states" in report
    assert "not yet" not in report


def test_a_second_call_trains_and_judges_nothing_again(back: Path) -> None:
    before = entries(back, "adapters-back")
    done = call("adapters_back", back, "--shares", "0.005", "--ways", "labels,states")
    assert done.returncode == 0, done.stderr
    assert "step" not in done.stderr
    assert entries(back, "adapters-back") == before


@pytest.mark.long
def test_modules_for_any_ratio_are_trained_and_judged_beside_the_shipped(tmp_path: Path) -> None:
    only = call("any_ratio", tmp_path, "--share", "0.005", "--ratios", "0,1", "--train-only")
    assert only.returncode == 0, only.stderr
    assert not (tmp_path / "out").exists()
    done = call("any_ratio", tmp_path, "--share", "0.005", "--ratios", "0,1")
    assert done.returncode == 0, done.stderr
    assert "step" not in done.stderr
    found = entries(tmp_path, "sharing-ratio")
    assert found["math-back"]["num_conversations"] == 10
    judged = {"math-back-0", "math-back-100", "math-shipped-0", "math-shipped-100"}
    assert set(found) == {"math-back", *judged}
    manifest = json.loads((tmp_path / "work" / "math-back" / "prefillshare.json").read_text())
    assert manifest["training"]["config"]["sharing_ratio"] == [0.0, 1.0]
    report = (tmp_path / "out" / "sharing-ratio.md").read_text()
    assert "10 (math, 0% of training anew) conversations" in report
    assert "not yet" not in report


def judged(task: str, way: str, num_right: int, **more: Any) -> dict[str, Any]:
    return {"task": task, "way": way, "num_right": num_right, "num_problems": 500, **more}


def test_a_report_says_what_is_not_there_yet(tmp_path: Path) -> None:
    results = Results(tmp_path / "adapters-back.json")
    results.put("code-naive", judged("code", "", 25))
    for way, share, num_right in (("labels", 0.1, 100), ("states", 0.1, 450), ("states", 0.25, 499)):
        results.put(f"code-{way}-{share}", judged("code", way, num_right, share=share))
    adapters_back.write_report(tmp_path, Results(tmp_path / "adapters-back.json"))
    report = (tmp_path / "adapters-back.md").read_text()
    assert "| steps, and conversations | 0 % | 10% | 25% |" in report
    assert "| tiny-code, by the data alone | 5.0 | 20.0 | not yet |" in report
    assert "| tiny-code, and by its hidden states | 5.0 | 90.0 | 99.8 |" in report
    assert "1,250 (code)" in report
    assert (tmp_path / "adapters-back.svg").stat().st_size > 1000


def test_a_report_of_ratios_says_how_they_were_trained(tmp_path: Path) -> None:
    results = Results(tmp_path / "sharing-ratio.json")
    results.put("code-anew", {"task": "code", "num_conversations": 1250, "seed": 1})
    for ratio in (0.0, 1.0):
        results.put(f"code-anew-{round(100 * ratio)}", judged("code", "anew", 480, ratio=ratio))
    results.put("code-shipped-100", judged("code", "shipped", 496, ratio=1.0))
    any_ratio.write_report(tmp_path, results, (0.0, 1.0))
    report = (tmp_path / "sharing-ratio.md").read_text()
    told = "- trained anew for 0 to 100 %: 1,250 (code, 50% of training anew) conversations, peak learning rate 0.004"
    assert told in report
    assert "| tiny-code, trained anew for 0 to 100 % | 96.0 | 96.0 |" in report
    assert "| tiny-code, trained anew for 100 %, as shipped | not yet | 99.2 |" in report


def test_fewer_problems_than_usual_are_told() -> None:
    assert percent({"num_right": 99, "num_problems": 100}) == "99.0 (of 100)"


def test_results_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"entries"')
    with pytest.raises(EvaluationError, match=r"results\.json cannot be read .*: delete it, or give another --out"):
        Results(tmp_path / "results.json")
