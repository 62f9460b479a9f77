"""`prefillshare eval` against a real engine, and what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

from prefillshare.serving.launch import RunningDeployment


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", "eval", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_suite_is_asked_stored_and_compared(random_server: RunningDeployment, tmp_path: Path) -> None:
    out = tmp_path / "math.json"
    done = _run(
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
    compared = _run("--compare", str(out), str(out), "--json")
    assert json.loads(compared.stdout)[0]["p_value"] == 1.0


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    for arguments, said in (
        ((), "no suite is given"),
        (("humaneval", "--model", "x"), "--allow-code-execution"),
    ):
        done = _run(*arguments)
        assert done.returncode == 7
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
