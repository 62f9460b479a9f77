"""What a run survives: SIGKILL, a full disk, a changed file, another base; and two processes instead of one."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.config import load_training
from prefillshare.errors import TrainingError
from prefillshare.modules.manifest import read_manifest
from prefillshare.serving.machine.ports import free_port
from prefillshare.training.finetune.examples import read_examples, write_examples
from prefillshare.training.finetune.output import RunDirectory
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.progress import Report
from prefillshare.training.shard import Document
from tests.support.random_models import make_base
from tests.support.training_runs import (
    NUM_STEPS,
    SAVE_STEPS,
    Stopped,
    Watcher,
    losses,
    stop_at,
    train,
    write_training,
)

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-5
KILLED_AT = 5
FILE_LIMIT_BYTES = 20_000


def environment() -> dict[str, str]:
    """Two processes on two cores need one thread each."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)}


def run(*command: str, limit_bytes: int | None = None) -> "subprocess.CompletedProcess[str]":
    def limit() -> None:
        if limit_bytes is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=limit,
    )


def train_in_two_processes(file: Path) -> None:
    # --multi_gpu is accelerate's word for one process per rank; without a GPU they talk over gloo.
    launcher = ("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")
    rest = ("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()))
    done = run(*launcher, *rest, "-m", "prefillshare", "train", str(file))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    file = write_training(tmp_path, random_base)
    killed = run("tests.support.training_runs", str(file), str(KILLED_AT))
    assert killed.returncode == -9, killed.stderr
    assert [step for step, _ in losses(tmp_path / "out")] == list(range(1, KILLED_AT + 1))
    assert read_manifest(tmp_path / "out") is None
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole_run)
    module, whole = (path / "adapter_model.safetensors" for path in (tmp_path / "out", whole_run))
    assert module.read_bytes() == whole.read_bytes()


def interrupt_at(step: int, number: int) -> Watcher:
    """A watcher that sends a signal when the run reports this step: it is taken in the next one."""

    def press(report: Report) -> None:
        if report.step == step:
            os.kill(os.getpid(), number)

    return Watcher(press)


@pytest.mark.parametrize(
    ("number", "ends"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)], ids=["ctrl-c", "term"]
)
def test_an_interrupted_run_keeps_what_it_has_learned(
    tmp_path: Path,
    random_base: Path,
    whole_run: Path,
    capfd: pytest.CaptureFixture[str],
    number: int,
    ends: type[BaseException],
) -> None:
    file = write_training(tmp_path, random_base)
    run, before = Finetune(load_training(file), interrupt_at(SAVE_STEPS, number)), signal.getsignal(number)
    assert run.what_is_kept() is None
    with pytest.raises(ends):
        run.run(resume=False)
    assert "ends after this step, with a checkpoint; once more ends it at once" in capfd.readouterr().err
    assert signal.getsignal(number) == before
    assert losses(tmp_path / "out") == losses(whole_run)[: SAVE_STEPS + 1]
    assert run.what_is_kept() == f"the same command with --resume goes on from checkpoint-{SAVE_STEPS + 1}"
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole_run)
    module, whole = (path / "adapter_model.safetensors" for path in (tmp_path / "out", whole_run))
    assert module.read_bytes() == whole.read_bytes()


def test_a_second_interruption_ends_a_run_at_once(tmp_path: Path, random_base: Path) -> None:
    def press_twice(report: Report) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    run = Finetune(load_training(write_training(tmp_path, random_base)), Watcher(press_twice))
    with pytest.raises(KeyboardInterrupt):
        run.run(resume=False)
    assert [step for step, _ in losses(tmp_path / "out")] == [1]
    assert run.what_is_kept() == "the same command with --resume begins anew, since there is no checkpoint yet"


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    file = write_training(tmp_path, random_base)
    log = tmp_path / "out" / "run" / "log.jsonl"

    def fill(report: Report) -> None:
        # Root may write everywhere but into a directory.
        if report.step == SAVE_STEPS:
            log.rename(tmp_path / "log.jsonl")
            log.mkdir()

    with pytest.raises(TrainingError, match=r"the log could not be written .*: free some space there and go on with"):
        train(file, Watcher(fill))
    log.rmdir()
    (tmp_path / "log.jsonl").rename(log)
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole_run)


@pytest.mark.slow
def test_a_full_disk_costs_no_checkpoint(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    file = write_training(tmp_path, random_base)
    with pytest.raises(Stopped):
        train(file, stop_at(SAVE_STEPS + 1))
    done = run("prefillshare", "train", str(file), "--resume", limit_bytes=FILE_LIMIT_BYTES)
    assert done.returncode == 6, done.stderr
    error = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert f"checkpoint {2 * SAVE_STEPS} could not be written" in error[0]
    assert "free some space" in error[0]
    assert f"go on from checkpoint-{SAVE_STEPS} with --resume" in error[0]
    kept = [path.name for path in (tmp_path / "out" / "run").iterdir() if path.is_dir()]
    assert sorted(kept) == [f"checkpoint-{SAVE_STEPS}", "tensorboard"]
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole_run)


def test_a_run_that_ended_before_its_module_was_complete_completes_it(tmp_path: Path, whole_run: Path) -> None:
    output = tmp_path / "out"
    shutil.copytree(whole_run.parent, tmp_path, dirs_exist_ok=True)
    wanted = (output / "adapter_model.safetensors").read_bytes()
    (output / "prefillshare.json").unlink()
    (output / "adapter_model.safetensors").write_bytes(wanted[:100])
    train(tmp_path / "out.toml", resume=True)
    assert (output / "adapter_model.safetensors").read_bytes() == wanted
    assert read_manifest(output) == read_manifest(whole_run)
    assert losses(output) == losses(whole_run)


def test_a_run_that_ended_before_it_had_data_starts_anew(tmp_path: Path, random_base: Path) -> None:
    file = write_training(tmp_path, random_base, optimizer={"max_steps": 1})
    (tmp_path / "out" / "run").mkdir(parents=True)
    (tmp_path / "out" / "run" / "partial-data.npz").write_bytes(b"half")
    mine = tmp_path / "out" / "run" / "mine.txt"
    mine.write_text("mine")
    with pytest.raises(TrainingError, match="exists and is not empty"):
        train(file)
    mine.unlink()
    assert read_manifest(train(file)) is not None


def test_a_dry_run_over_a_start_that_ended_leaves_it_as_it_is(tmp_path: Path, random_base: Path) -> None:
    output = tmp_path / "out"
    (output / "run").mkdir(parents=True)
    (output / "run" / "partial-data.npz").write_bytes(b"half")
    training = load_training(write_training(tmp_path, random_base))
    assert Finetune(training, Watcher()).plan().lines
    assert (output / "run" / "partial-data.npz").read_bytes() == b"half"


def test_a_second_run_keeps_its_hands_off_the_directory_of_the_first(tmp_path: Path) -> None:
    """It would remove what the first is writing, and a checkpoint without it could get its name."""
    first, second = RunDirectory(tmp_path / "out"), RunDirectory(tmp_path / "out")
    refused = pytest.raises(TrainingError, match="another run writes to")
    with first.held(makes=True):
        first.run.mkdir()
        for makes in (True, False):
            with refused, second.held(makes=makes):
                pass
    with second.held(makes=False):
        second.claim(resume=False)


def test_a_run_that_is_refused_leaves_no_directory(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "out")
    with pytest.raises(TrainingError, match="no row"), directory.held(makes=True):
        raise TrainingError("no row can be used")
    assert not directory.output.exists()
    directory.output.touch()
    with pytest.raises(TrainingError, match=r"cannot be written to \(File exists\)"), directory.held(makes=True):
        pass


@pytest.mark.parametrize("resume", [True, False])
def test_a_run_begins_by_keeping_others_out(tmp_path: Path, random_base: Path, resume: bool) -> None:
    file = write_training(tmp_path, random_base)
    with RunDirectory(tmp_path / "out").held(makes=True), pytest.raises(TrainingError, match="another run writes to"):
        train(file, resume=resume)


@pytest.mark.parametrize("name", ["data.npz", "data-rows.npy"])
def test_data_that_was_cut_or_damaged_is_named(tmp_path: Path, name: str) -> None:
    write_examples(tmp_path, "data", [[Document(tokens=range(500), weights=[1.0] * 500)]])
    whole = (tmp_path / name).read_bytes()
    place = len(whole) // 3
    damages = {"empty": b"", "cut": whole[:place], "flipped": whole[:place] + b"?" + whole[place + 1 :]}
    # numpy's own files have no checksum.
    for damaged in list(damages.values())[: 3 if name.endswith(".npz") else 2]:
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(TrainingError, match=f"{name} cannot be read .*: start the run again in another output"):
            read_examples(tmp_path, "data")


def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, random_base: Path) -> None:
    file = write_training(tmp_path, random_base, optimizer={"learning_rate": 1e30, "clip_norm": 1e30})
    with pytest.raises(TrainingError, match=r"the loss is nan at step \d+: lower learning_rate"):
        train(file)


@pytest.mark.slow
def test_two_processes_equal_one_with_twice_the_accumulation(
    tmp_path: Path, random_base: Path, whole_run: Path
) -> None:
    file = write_training(tmp_path, random_base, batch={"accumulation": 2})
    train_in_two_processes(file)
    assert len(losses(tmp_path / "out")) == NUM_STEPS
    pairs = zip(losses(tmp_path / "out"), losses(whole_run), strict=True)
    worst = max(abs(loss - other) for (_, loss), (_, other) in pairs)
    print(f"two processes against one: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE
    assert read_manifest(tmp_path / "out") is not None


def test_a_run_goes_on_only_as_it_began(tmp_path: Path, random_base: Path) -> None:
    file = write_training(tmp_path, random_base)
    with pytest.raises(Stopped):
        train(file, stop_at(1))
    began = file.read_text()
    with pytest.raises(TrainingError, match="continue it with --resume"):
        train(file)
    file.write_text(began.replace("learning_rate = 0.002", "learning_rate = 0.003"))
    with pytest.raises(TrainingError, match=r"optimizer.learning_rate = 0.002 and now it is 0.003"):
        train(file, resume=True)
    other = make_base(tmp_path / "other", hidden=32, heads=2, kv_heads=1)
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    file.write_text(began.replace(str(random_base), str(other)))
    with pytest.raises(TrainingError, match="started with tokenizer_sha256"):
        train(file, resume=True)
