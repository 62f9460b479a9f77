"""`prefillshare grow` as a process that is killed without warning: the family is what it was, and the same command then
ends as if nothing had happened."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prefillshare.grow.family import Family
from prefillshare.grow.run import grow
from tests.support.families import load_task, write_grow_task
from tests.support.random_models import make_base
from tests.support.training_runs import Watcher

GROWTH = "max_drift = 0.0\ngate_l1 = 0.0"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", hidden=32, heads=2, kv_heads=1)


def test_a_killed_run_changes_nothing_and_can_be_run_again(tmp_path: Path, base: Path) -> None:
    family, undisturbed = tmp_path / "family", tmp_path / "undisturbed"
    grow(family, load_task(tmp_path, base, "first"), Watcher())
    shutil.copytree(family, undisturbed)
    grow(undisturbed, load_task(tmp_path, base, "second", growth=GROWTH), Watcher())
    before, task = _contents(family), write_grow_task(tmp_path, base, "second", growth=GROWTH)
    for step in ("select, epoch 1", "round 1, cycle 1, epoch 1"):
        _kill(family, task, lambda process, step=step: step in _line(process))
        assert _contents(family) == before, step
    size = len(before["pool.bin"])
    _kill(family, task, lambda process: (family / "pool.bin").stat().st_size > size or process.poll() is not None)
    after = _contents(family)
    assert after["pool.bin"].startswith(before["pool.bin"])
    assert before.items() - {("pool.bin", before["pool.bin"])} <= after.items()
    # What the kill left of the write, of the module, or nothing, is made whole by the next run of the family.
    for directory in (family, undisturbed):
        if Family(directory).task("second") is None:
            grow(directory, load_task(tmp_path, base, "second", growth=GROWTH), Watcher())
        grow(directory, load_task(tmp_path, base, "third"), Watcher())
    assert _contents(family) == _contents(undisturbed)


def _kill(family: Path, task: Path, is_time: Callable[["subprocess.Popen[str]"], bool]) -> None:
    command = [sys.executable, "-m", "prefillshare", "grow", str(family), "--task", str(task)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        while not is_time(process):
            time.sleep(0)
        process.kill()


def _line(process: "subprocess.Popen[str]") -> str:
    assert process.stderr is not None
    line = process.stderr.readline()
    assert line, "the run ended before it was killed"
    return line


def _contents(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}
