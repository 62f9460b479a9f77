"""The directory of a run: who may write there, what it started from, which checkpoint is the last.

OUTPUT/                     the finished module; prefillshare.json comes last
OUTPUT/run/run.json         what the run started from
OUTPUT/run/data.npz         its tokenised data
OUTPUT/run/checkpoint-N/    complete checkpoints
OUTPUT/run/log.jsonl        one line per log step; TensorBoard's files are under tensorboard/
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prefillshare.config.training import Training
from prefillshare.errors import TrainingError, first_line, short_repr
from prefillshare.modules.manifest import MANIFEST_NAME

RECORD_NAME = "run.json"
LOG_NAME = "log.jsonl"
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_DATA_FILE = re.compile(r"(partial-)?(data|held-out)(\.npz|-rows\.npy)|partial-run\.json")
# Where things lie may differ when a run goes on: the base is known by its fingerprint, the data is tokenised already.
_FREE_KEYS = frozenset(
    {"output", "source", "base.path", "base.hub", "base.revision", "data.file", "start", "run.keep_checkpoints"}
)


class RunDirectory:
    """Paths of one run."""

    def __init__(self, output: Path) -> None:
        self.output, self.run = output, output / "run"

    @property
    def log(self) -> Path:
        return self.run / LOG_NAME

    @property
    def staging(self) -> Path:
        """Where a checkpoint or the module is written before it takes its name."""
        return self.run / "partial"

    @property
    def has_record(self) -> bool:
        """Whether a run has begun there: its data is tokenised."""
        return (self.run / RECORD_NAME).is_file()

    @contextmanager
    def held(self, *, makes: bool) -> Iterator[None]:
        """Keep other runs out while this one looks at the directory and writes there; `makes` it if it is not there.

        Raises: TrainingError when another run is there, or the directory cannot be made.
        """
        with ExitStack() as until_the_end:
            if makes and not self.output.exists():
                until_the_end.callback(_remove_empty, self.output)
            if makes or self.output.exists():
                until_the_end.callback(os.close, _lock(self.output))
            yield

    def claim(self, *, resume: bool) -> None:
        """As `check`; and removes what a run left that ended before run.json was there, or in the middle of a write.

        Raises: TrainingError.
        """
        self.check(resume=resume)
        leftovers = (self.staging, *self.run.glob("old-checkpoint-*")) if resume else (self.run,)
        for leftover in leftovers:
            shutil.rmtree(leftover, ignore_errors=True)

    def check(self, *, resume: bool) -> None:
        """Refuse a directory that holds something, unless a run there is to go on; changes nothing.

        Raises: TrainingError.
        """
        has_run = self.has_record
        if (self.output / MANIFEST_NAME).exists() and has_run:
            raise TrainingError(f"the run in {self.output} is finished: launch the module, or choose another output")
        if resume and not has_run:
            raise TrainingError(f"{self.output} holds no run to resume: remove --resume")
        if not resume and self.output.exists() and any(self.output.iterdir()) and not self._is_dead_start():
            fix = "continue it with --resume, or choose another output" if has_run else "choose another output"
            raise TrainingError(f"output {self.output} exists and is not empty: {fix}")

    def _is_dead_start(self) -> bool:
        """Whether all that is there was left by a run that ended before run.json was there."""
        if not self.run.is_dir() or len(list(self.output.iterdir())) != 1:
            return False
        return all(_DATA_FILE.fullmatch(path.name) for path in self.run.iterdir())

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint; every one with its final name is complete."""
        found = self.checkpoints()
        return found[-1] if found else None

    def checkpoints(self) -> list[Path]:
        """All checkpoints, oldest first."""
        steps = {int(m[1]): path for path in self.run.glob("checkpoint-*") if (m := _CHECKPOINT.fullmatch(path.name))}
        return [steps[step] for step in sorted(steps)]

    def drop_old_checkpoints(self, num_kept: int) -> None:
        """Effects: deletes all but the newest checkpoints."""
        for path in self.checkpoints()[:-num_kept]:
            # Renamed first, so that a half-deleted checkpoint is never taken for a whole one.
            path.rename(path.with_name(f"old-{path.name}"))
            shutil.rmtree(path.with_name(f"old-{path.name}"))

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Effects: run.json appears complete or not at all."""
        partial = self.run / f"partial-{RECORD_NAME}"
        partial.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        partial.rename(self.run / RECORD_NAME)

    def read_record(self) -> dict[str, Any]:
        """Raises: TrainingError when run.json is missing or broken."""
        file = self.run / RECORD_NAME
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise TrainingError(f"{file} cannot be read ({error}): start the run again in another output") from None


def _lock(output: Path) -> int:
    """Make a directory if it is not there, and keep other runs out of it until the descriptor is closed.

    Raises: TrainingError.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(output, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TrainingError(f"output {output} cannot be written to ({error.strerror}): choose another output") from None
    lock_opened(descriptor, output, f"another run writes to {output}: wait for its end, or choose another output")
    return descriptor


def lock_opened(descriptor: int, directory: Path, busy: str) -> None:
    """Keep other runs out of a directory until its `descriptor` is closed, which it is at once where that fails.

    Raises: TrainingError that says `busy` when another run has it.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        reason = f"{directory} cannot be locked ({error.strerror}): choose another place"
        raise TrainingError(busy if isinstance(error, BlockingIOError) else reason) from None


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):
        directory.rmdir()


def config_record(training: Training) -> dict[str, Any]:
    """The training file as JSON, with the layers of an adapter that it leaves to the objective."""
    record: dict[str, Any] = json.loads(json.dumps(asdict(training), default=str))
    if training.lora is not None:
        record["lora"]["targets"] = list(training.targets)
    return record


def check_same_run(
    stored: Mapping[str, Any], now: Mapping[str, Any], output: Path, free_keys: frozenset[str] = _FREE_KEYS
) -> None:
    """Compare what a run started from with what it would go on with; `free_keys` may differ.

    Raises: TrainingError naming the first difference.
    """
    started = dict(_flat(stored))
    for key, value in _flat(now):
        before = started.get(key)
        if key not in free_keys and before != value:
            old, new = short_repr(before, 40), short_repr(value, 40)
            raise TrainingError(
                f"the run in {output} started with {key} = {old} and now it is {new}: "
                "put it back, or start a new run in another output"
            )


@contextmanager
def disk_errors(what: str, directory: Path, advice: str) -> Iterator[None]:
    """Turn what torch, safetensors and the system raise when a file cannot be written into one sentence."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        # torch raises the same for whatever goes wrong in a computation.
        if isinstance(error, RuntimeError) and "write" not in str(error).lower():
            raise
        raise TrainingError(
            f"{what} could not be written to {directory} ({first_line(error)}): free some space there and {advice}"
        ) from error


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
