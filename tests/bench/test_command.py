"""`prefillshare bench` as a program: interrupted, continued, and against a server that runs already."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.bench.store import Store
from prefillshare.cli.app import app
from prefillshare.errors import BenchError
from prefillshare.serving.launch import RunningDeployment

WAIT_S = 300.0
NUM_CELLS = 2 * 3  # two loads, three repeats


_INTERRUPTED = """
import os, sys
from prefillshare.bench.store import Store
from prefillshare.cli.main import main

put, how = Store.put, int(sys.argv.pop(1))

def put_and_interrupt(self, cell, run):
    put(self, cell, run)
    Store.put = put
    os.kill(os.getpid(), how)

Store.put = put_and_interrupt
main()
"""
"""The command, which gets a signal when its first run is written: whoever sends it from outside may come too late."""


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prefillshare", "bench", *arguments]


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(_command(*arguments), capture_output=True, text=True, timeout=WAIT_S, check=False)


def _runs(directory: Path) -> dict[str, int]:
    """Finished runs and when they were written."""
    return {file.name: file.stat().st_mtime_ns for file in (directory / "runs").glob("*.json")}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_measurement_keeps_what_is_done_and_goes_on(
    random_server: RunningDeployment, tmp_path: Path, how: signal.Signals
) -> None:
    out = tmp_path / "results"
    arguments = ["react", "--systems", "", "--endpoint", f"there={random_server.url}#math,tool,code"]
    arguments += ["--modules", "3", "--concurrency", "1,2", "--sessions", "2", "--turns", "3", "--vocab-size", "250"]
    arguments += ["--start-tokens", "30", "--growth-tokens", "5", "--output-tokens", "4", "--out", str(out)]
    arguments += ["--seed", str(int(how))]  # the server keeps its cache: each run needs prompts of its own
    command = [sys.executable, "-c", _INTERRUPTED, str(int(how)), "bench", *arguments]
    stopped = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)
    said, told = stopped.stdout, stopped.stderr
    done = _runs(out)
    assert stopped.returncode == 130, told
    assert 1 <= len(done) < NUM_CELLS
    assert f"prefillshare bench --resume {out}" in told
    assert "prefix hit ratio" in said
    assert "of 3 repeats" in (out / "report.html").read_text()

    ended = _run("--resume", str(out))
    assert ended.returncode == 0, ended.stderr
    after = _runs(out)
    assert len(after) == NUM_CELLS
    assert {name: after[name] for name in done} == done
    rows = [line.split("\t") for line in ended.stdout.splitlines()]
    assert rows[0] == ["modules", "load", "figure", "there"]
    assert [row[3] for row in rows if row[2] == "failed calls"] == ["0", "0"]
    assert {row[1] for row in rows[1:]} == {"1 sessions at a time", "2 sessions at a time"}
    assert "; 3 of 3 repeats" in (out / "report.html").read_text()

    plan = Store(out).plan()
    assert plan.endpoints == (f"there={random_server.url}#math,tool,code",)
    record = json.loads((out / "runs" / "n3-closed-1-there-r1.json").read_text())["record"]
    # Sessions of calls of 30, 39 and 48 tokens, answered by their lengths and with the server's own tokens.
    assert [call["prompt_tokens"] for call in record["calls"]] == [30, 39, 48, 30, 39, 48]
    assert [(len(call["output"]), len(call["gaps_s"])) for call in record["calls"]] == [(4, 3)] * 6
    # An endpoint's cache is not emptied, so the first call of a later repeat hits; what it holds is at most n-1.
    assert all(0 <= call["cached_tokens"] < call["prompt_tokens"] for call in record["calls"])
    assert record["calls"][2]["cached_tokens"] == 38

    again = _run(*arguments)
    assert again.returncode == 8
    assert "--resume" in again.stderr


@pytest.mark.parametrize("what", ["foreign files", "an earlier result", "half a result", "a file", "a lost link"])
def test_results_are_written_into_a_directory_of_their_own_only(tmp_path: Path, what: str) -> None:
    out = tmp_path / "out"
    contents = {"foreign files": "thesis.txt", "an earlier result": "plan.json", "half a result": "runs/x.json"}
    if what == "a file":
        out.write_text("mine")
    elif what == "a lost link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        kept = out / contents[what]
        kept.parent.mkdir(parents=True)
        kept.write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BenchError, match=r"--out"):
        app(["bench", "react", "--family", "tiny", "--modules", "1", "--out", str(out)], standalone_mode=False)
    assert sorted(tmp_path.rglob("*")) == before
    assert all(file.read_text() == "mine" for file in before if file.is_file())


def test_the_first_line_comes_before_the_slow_imports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prefillshare.cli.bench_plan", None)
    with pytest.raises(ImportError):
        app(["bench", "react"], standalone_mode=False)
    assert capsys.readouterr().err == "preparing react\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give a workload, or --resume"),
        (("react", "--systems", "sharde"), "there is no system 'sharde'"),
        (("react", "--systems", ""), "no system is named"),
        (("react", "--concurrency", "1", "--rate", "1"), "different kinds of load"),
        (("react", "--modules", "two"), "--modules 'two' is not a list of numbers"),
        (("react", "--endpoint", "here"), "is not NAME=URL"),
        (("react", "--preset", "gpu"), "there is no preset 'gpu'"),
        (("react", "--family", "huge"), "there is no family 'huge'"),
        (("react", "--family", "tiny", "--start-tokens", "5000"), "lower --start-tokens"),
        (("react", "--speed", "2"), "--speed plays a trace's own arrival times, and react has none"),
        (("trace",), "needs a file"),
        (("--resume", "nowhere"), "holds no measurement"),
        (
            ("--resume", "nowhere", "--modules", "8", "--kv-tokens", "9"),
            "so --modules, --kv-tokens would change nothing",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_starts(
    arguments: tuple[str, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BenchError, match=re.escape(message)):
        app(["bench", *arguments], standalone_mode=False)
    assert not list(tmp_path.iterdir())
