"""`prefillshare grow` as a user meets it: what it lists and reports, the mistakes, the exit codes."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from prefillshare.cli.app import app
from prefillshare.cli.errors import run_reporting_errors
from tests.support.families import add_random_task, write_grow_task
from tests.support.random_models import make_base

Command = Callable[..., int]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `prefillshare grow ...` in this process and returns its exit code."""

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["prefillshare", "grow", *arguments])
        try:
            return run_reporting_errors(app)
        except SystemExit as end:
            return int(end.code or 0)

    return run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", hidden=32, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    directory = tmp_path_factory.mktemp("grow") / "family"
    for seed, name in enumerate(("first", "second")):
        add_random_task(directory, base, name, seed=seed)
    return directory


def test_it_lists_and_reports(family: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ls", str(family), "--json") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [(row["task"], row["stamp"]) for row in listed] == [("first", 1), ("second", 2)]
    assert all(Path(row["module"]).is_dir() for row in listed)
    assert command("report", str(family), "--json", "--rank", "4") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["tasks"][0]["reused"] == 0
    assert said["tasks"][1]["reused_from"] == {"first": said["tasks"][1]["reused"]}
    total = said["total"]
    assert total["num_parameters"] == sum(row["num_parameters"] for row in said["tasks"])
    # Rank 4 on seven projections of two layers of a model of width 32, twice.
    assert total["num_separate"] == 2 * 2 * 4 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))


def test_it_draws(family: Path, tmp_path: Path, command: Command) -> None:
    assert command("report", str(family), "--plot", str(tmp_path / "growth.svg")) == 0
    assert "</svg>" in (tmp_path / "growth.svg").read_text()


def test_no_family_is_an_error(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ls", str(tmp_path)) == 6
    assert "holds no family: grow its first task with" in capsys.readouterr().err


def test_a_task_that_is_there_is_an_error(
    family: Path, base: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_grow_task(tmp_path, base, "second")
    # Options may stand on either side of the family.
    for arguments in ((str(family), "--task", str(file)), ("--task", str(file), str(family))):
        assert command(*arguments) == 6
        assert "has a task 'second' already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("growth", "head", "said"),
    [
        ("unitss = 3", "", "did you mean 'units'"),
        ("tau = -1.0", "", "tau is -1.0: it must be 0 or more"),
        ("max_reused = -1", "", "max_reused is -1: it must be 0 or more"),
        ("max_cycles = 0", "", "max_cycles is 0: it must be at least 1"),
        ("max_repairs = -1", "", "max_repairs is -1: it must be 0 or more"),
        ("repair_epochs = 0", "", "repair_epochs is 0.0: it must be more than 0"),
        ("", 'targets = ["lm_head"]', "targets has 'lm_head', which the engine cannot serve"),
    ],
)
def test_a_wrong_task_file_is_named(
    growth: str,
    head: str,
    said: str,
    base: Path,
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_grow_task(tmp_path, base, "third", head=head, growth=growth)
    assert command(str(tmp_path / "family"), "--task", str(file)) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "family").exists()


@pytest.mark.parametrize("what", ["ls", "report"])
def test_a_pool_that_was_cut_short_is_not_listed_as_if_it_were_whole(
    what: str, family: Path, tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    cut = tmp_path / "family"
    shutil.copytree(family, cut)
    (cut / "pool.bin").write_bytes((family / "pool.bin").read_bytes()[:-10])
    assert command(what, str(cut)) == 6
    assert "second is a module that pool.bin does not know" in capsys.readouterr().err
    # What an interrupted run left has no module: it is said, and the others are listed.
    shutil.rmtree(cut / "second")
    assert command(what, str(cut)) == 0
    told = capsys.readouterr()
    assert "are of a run that was interrupted, left out" in told.err
    assert "first" in told.out
