"""`prefillshare simulate` on the command line."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.cli.app import app
from prefillshare.errors import PrefillShareError

_FILE = "models/tiny-agents-pd.toml"
_SMALL = ("--sessions", "2", "--turns", "3", "--concurrency", "1")


def _run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", "simulate", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_figures_come_as_a_table_as_json_and_as_plots(tmp_path: Path) -> None:
    out = tmp_path / "results"
    done = _run(_FILE, *_SMALL, "--workers", "3+3,4+6", "--out", str(out))
    assert done.returncode == 0, done.stderr
    header, *rows = [line.split("\t") for line in done.stdout.splitlines()]
    assert [row[:3] for row in rows] == [
        [size, "1 sessions at a time", system]
        for size in ("3P+3D", "4P+6D")
        for system in ("prefix_aware", "per-module")
    ]
    assert "hit ratio" in header
    told = json.loads((out / "figures.json").read_text())
    assert [figures["answered"] for figures in told["figures"]] == [6, 6, 6, 6]
    assert (out / "plots" / "hit-ratio-over-workers.svg").read_text().startswith("<?xml")
    as_json = json.loads(_run(_FILE, *_SMALL, "--workers", "3+3", "--json").stdout)
    told["figures"][0].pop("choice_us")
    as_json[0].pop("choice_us")
    assert as_json[0] == told["figures"][0]


def test_a_file_as_it_stands_is_simulated_with_what_it_has_workers_for() -> None:
    done = _run(_FILE, *_SMALL, "--json")
    assert done.returncode == 0, done.stderr
    assert [figures["system"] for figures in json.loads(done.stdout)] == ["prefix_aware"]
    assert "per-module is left out: 1P+3D has no prefill worker for each of 3 modules" in done.stderr
    assert "--workers 3+3 or more" in done.stderr


def test_what_was_simulated_is_not_lost_to_a_size_that_cannot_be() -> None:
    done = _run(_FILE, *_SMALL, "--workers", "3+3,1+3", "--systems", "prefix_aware,per-module")
    assert (done.returncode, done.stdout) == (10, "")
    assert "1P+3D has too few prefill workers for per-module, which needs one for each of 3 modules" in done.stderr
    assert "calls" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models/tiny-agents.toml",), 'give a file with topology = "disaggregated"'),
        ((_FILE, "--workers", "some"), "write one such as 8, 4+4 or 8..1000"),
        ((_FILE, "--speed", "2"), "give --trace"),
        ((_FILE, "--rate", "1", "--concurrency", "2"), "give one of them"),
        ((_FILE, "--rate", "1", "--arrivals", "2"), "give that as well, or --rate alone"),
        ((_FILE, "--model", "none.toml"), "there is no worker model 'none.toml'"),
        ((_FILE, "--fit", "nonsense"), "'nonsense' is no address of a server"),
        ((_FILE, "--fit", "http://127.0.0.1:1"), "http://127.0.0.1:1 did not answer a call"),
        ((_FILE, "--systems", "best"), "there is no system 'best'"),
    ],
)
def test_a_mistake_is_said(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(PrefillShareError) as caught:
        app(["simulate", *arguments], standalone_mode=False)
    assert message in str(caught.value)


def test_a_trace_is_played_to_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [
        {"timestamp": 100 * number, "input_length": 600, "output_length": 5, "hash_ids": [0, number + 1]}
        for number in range(40)
    ]
    trace = tmp_path / "trace.jsonl"
    trace.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    options = ("--trace", str(trace), "--systems", "prefix_aware", "--json")
    app(["simulate", _FILE, *options], standalone_mode=False)
    (all_of_it,) = json.loads(capsys.readouterr().out)
    app(["simulate", _FILE, *options, "--sessions", "7"], standalone_mode=False)
    (beginning,) = json.loads(capsys.readouterr().out)
    assert (all_of_it["answered"], beginning["answered"]) == (40, 7)


def test_with_a_rate_per_worker_more_sessions_come_to_more_workers(capsys: pytest.CaptureFixture[str]) -> None:
    load = ("--rate", "1", "--per-worker", "--sessions", "2", "--turns", "3", "--systems", "prefix_aware", "--json")
    app(["simulate", _FILE, *load, "--workers", "3+3,5+7"], standalone_mode=False)
    assert [figures["answered"] for figures in json.loads(capsys.readouterr().out)] == [6 * 2 * 3, 12 * 2 * 3]
