"""The field's suites asked of a real engine. Collected only with their files."""

import json
from pathlib import Path

import pytest

from prefillshare.serving.launch import RunningDeployment
from tests.support.commands import run_eval

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.parametrize("suite", ["gsm8k", "gsm-plus", "humaneval"])
def test_a_suite_is_asked_and_judged(random_server: RunningDeployment, suite: str, tmp_path: Path) -> None:
    """A random model knows nothing: what counts is that every question was asked and judged."""
    out = tmp_path / "samples.json"
    done = run_eval(
        *(suite, "--model", "math", "--url", random_server.url, "--data", str(DATA), "--limit", "2"),
        *("--allow-code-execution", "--json", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(done.stdout)
    assert (figures["suite"], figures["num_right"]) == (suite, 0)
    samples = json.loads(out.read_text())["scores"][0]["samples"]
    assert [bool(sample["reason"]) for sample in samples] == [True, True]
    assert all(sample["prompt_tokens"] > 50 for sample in samples)


def test_gsm8k_is_asked_by_lm_eval(random_server: RunningDeployment, tmp_path: Path) -> None:
    out = tmp_path / "samples.json"
    done = run_eval(
        *("gsm8k", "--harness", "lm-eval", "--model", "math", "--url", random_server.url, "--data", str(DATA)),
        *("--limit", "2", "--few-shot", "1", "--json", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert [score["suite"] for score in figures] == [
        "gsm8k (lm-eval, strict-match)",
        "gsm8k (lm-eval, flexible-extract)",
    ]
    for score in json.loads(out.read_text())["scores"]:
        assert [bool(sample["answer"]) for sample in score["samples"]] == [True, True]
