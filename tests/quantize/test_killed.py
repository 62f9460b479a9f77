"""`prefillshare quantize` in processes that are killed without warning, again and again, and go on."""

import signal
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from tests.quantize.test_run import weights, write_file
from tests.support.quantised import quantise_as_program
from tests.support.random_models import make_family
from tests.support.training_runs import write_rows
from tests.support.waiting import wait_until

DEADLINE_S = 300
KILLED_AT = {
    "module": ["run/run.json", "run/.k-means.quantizing/layer-00000.safetensors", "run/tuning.pt"],
    "layer": ["run/layers/states/behind", "run/layers/layer-00000.safetensors"],
}
"""Of each way to tune, files at whose appearance the process is killed."""
Start = Callable[..., BaseProcess]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("killed")
    make_family(directory, ("math",))
    write_rows(directory / "rows.jsonl")
    return directory


@pytest.fixture(scope="module")
def start(folder: Path) -> Start:
    """Starts the command in a process of its own: forked from one that has imported everything."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.support.quantised"])

    def start(file: Path, *options: str, killed_after: Path | None = None) -> BaseProcess:
        process = context.Process(target=quantise_as_program, args=(file, [*options], killed_after))
        process.start()
        return process

    return start


def finish(process: BaseProcess) -> None:
    process.join(DEADLINE_S)
    assert process.exitcode == 0


def kill_at(process: BaseProcess, path: Path) -> None:
    """Kill the process as soon as a file is there."""
    wait_until(lambda: path.exists() or not process.is_alive(), f"{path.name} did not appear", pause_s=0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"it ended before it was killed at {path.name}"


@pytest.mark.slow
@pytest.mark.parametrize("by", KILLED_AT)
def test_a_process_that_is_killed_goes_on_and_makes_the_same_module(folder: Path, start: Start, by: str) -> None:
    # Several steps and rounds, so that a kill falls between two of them.
    changes = {"size": f'size = 2\nby = "{by}"', "steps": "steps = 8", "rounds": "rounds = 8"}
    finish(start(write_file(folder, f"undisturbed-{by}", **changes)))
    file, options = write_file(folder, f"killed-{by}", **changes), list[str]()
    for place in KILLED_AT[by]:
        path = folder / f"killed-{by}" / place
        kill_at(start(file, *options, killed_after=path), path)
        options = ["--resume"]
    finish(start(file, *options))

    undisturbed, killed = folder / f"undisturbed-{by}", folder / f"killed-{by}"
    expected, found = weights(undisturbed), weights(killed)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    for name in ("report.json", "config.json", "model.safetensors.index.json"):
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes()
