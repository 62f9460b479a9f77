"""`prefillshare grow` as a process that is killed without warning: the family is what it was, and the same command then
ends as if nothing had happened."""

import shutil
import signal
import subprocess
import sys
import time
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
        _let_die(family, task, step)
        assert _contents(family) == before, step
    _kill_in_a_write(family, task)
    after = _contents(family)
    assert after["pool.bin"].startswith(before["pool.bin"])
    assert before.items() - {("pool.bin", before["pool.bin"])} <= after.items()
    # What the kill left of the write, of the module, or nothing, is made whole by the next run of the family.
    for directory in (family, undisturbed):
        if Family(directory).task("second") is None:
            grow(directory, load_task(tmp_path, base, "second", growth=GROWTH), Watcher())
        grow(directory, load_task(tmp_path, base, "third"), Watcher())
    assert _contents(family) == _contents(undisturbed)


def _let_die(family: Path, task: Path, step: str) -> None:
    """Run until a step. It kills itself there: whoever reads of the step may come too late on a busy machine."""
    command = [sys.executable, "-m", "tests.support.grow_runs", str(family), str(task), step]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, (step, done.returncode, done.stderr)


def _kill_in_a_write(family: Path, task: Path) -> None:
    """Kill the command when the pool grows, or, where that is too late, when it has ended."""
    command, size = [sys.executable, "-m", "prefillshare", "grow", str(family), "--task", str(task)], _pool_size(family)
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and _pool_size(family) == size:
            time.sleep(0)
        process.kill()


def _pool_size(family: Path) -> int:
    return (family / "pool.bin").stat().st_size


def _contents(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}
