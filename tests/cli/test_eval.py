"""`prefillshare eval` against a real engine, and what it refuses."""

import json
from pathlib import Path

import pytest

from prefillshare.serving.launch import RunningDeployment
from tests.support.commands import run_eval


def test_a_suite_is_asked_stored_and_compared(random_server: RunningDeployment, tmp_path: Path) -> None:
    out = tmp_path / "math.json"
    done = run_eval(
        "tiny-tool", "--model", "math", "--url", f"{random_server.url}/v1", "--limit", "3", "--out", str(out), "--json"
    )
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(done.stdout)
    # A random model knows nothing: what counts is that every question was asked and judged.
    assert (figures["suite"], figures["model"], figures["num_right"]) == ("tiny-tool", "math", 0)
    assert figures["interval_95"][1] < 1
    samples = json.loads(out.read_text())["scores"][0]["samples"]
    assert len(samples) == 3
    assert all(sample["prompt_tokens"] > 0 and sample["reason"] for sample in samples)
    compared = run_eval("--compare", str(out), str(out), "--json")
    assert json.loads(compared.stdout)[0]["p_value"] == 1.0


@pytest.mark.parametrize("suite", ["bfcl-simple", "bfcl-multiple"])
@pytest.mark.parametrize("option", [(), ("--tools",)])
def test_function_calls_are_asked(random_server: RunningDeployment, suite: str, option: tuple[str, ...]) -> None:
    """The engine has no parser of calls, and a random model writes none."""
    done = run_eval(suite, "--model", "tool", "--url", random_server.url, "--limit", "2", "--json", *option)
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads(done.stdout)
    assert (figures["suite"], figures["num_right"]) == (suite, 0)


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    stored = tmp_path / "stored.json"
    stored.write_text("an earlier result")
    for arguments, said in (
        ((), "no suite is given"),
        (("humaneval", "--model", "x"), "--allow-code-execution"),
        (("tiny-tool", "--model", "x", "--out", str(stored)), "stored.json exists: give another name"),
        (("tiny-tool", "--model", "x", "--out", str(tmp_path / "no" / "a.json")), "create"),
    ):
        done = run_eval(*arguments)
        assert done.returncode == 7
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert stored.read_text() == "an earlier result"
