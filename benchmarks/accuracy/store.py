"""Results on disk: one JSON file that is complete after every step, so that a killed measurement goes on.

Several calls may fill one file side by side, each with seeds of its own.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.accuracy.machine import describe_machine
from benchmarks.accuracy.plan import Measurement, Recipe, Run
from benchmarks.accuracy.train import Trained
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.statistics import wilson_interval

FORMAT = 1


class Store:
    """Trainings and accuracies by name."""

    def __init__(self, file: Path, recipe: Recipe) -> None:
        """Read what an earlier call stored.

        Raises: EvaluationError when it was made by another recipe, or cannot be read.
        """
        self.file = file
        self._content: dict[str, Any] = {
            "format": FORMAT,
            "recipe_sha256": recipe.sha256(),
            "recipe": recipe.as_dict(),
            "machine": describe_machine(),
            "trainings": {},
            "accuracies": {},
        }
        if file.exists():
            self._take(_read(file))

    @property
    def machine(self) -> dict[str, Any]:
        """Where and when the newest result was made."""
        machine: dict[str, Any] = self._content["machine"]
        return machine

    @property
    def trainings(self) -> dict[str, dict[str, Any]]:
        """Loss and CPU seconds of each training."""
        trainings: dict[str, dict[str, Any]] = self._content["trainings"]
        return trainings

    @property
    def accuracies(self) -> dict[str, dict[str, Any]]:
        """What was measured."""
        accuracies: dict[str, dict[str, Any]] = self._content["accuracies"]
        return accuracies

    def add_training(self, run: Run, trained: Trained) -> None:
        """Effects: writes the file."""
        self.trainings[run.name] = {**asdict(run), **asdict(trained)}
        self._write()

    def add_accuracy(self, measurement: Measurement, num_right: int, num_problems: int, seconds: float) -> None:
        """Effects: writes the file."""
        run = measurement.run
        self.accuracies[measurement.name] = {
            "task": measurement.task,
            "trained": run.trained if run else "base",
            "seed": run.seed if run else None,
            "ratio": measurement.ratio,
            "num_right": num_right,
            "num_problems": num_problems,
            "interval_95": wilson_interval(num_right, num_problems),
            "seconds": round(seconds, 1),
        }
        self._write()

    def _take(self, stored: dict[str, Any]) -> None:
        if stored.get("recipe_sha256") != self._content["recipe_sha256"]:
            raise EvaluationError(f"{self.file} was made by another recipe: give --out another directory, or delete it")
        for key in ("machine", "trainings", "accuracies"):
            self._content[key] = stored[key]

    def _write(self) -> None:
        self._content["machine"] = describe_machine()
        with _lock(self.file.parent):
            self._take_others()
            partial = self.file.with_name(f"partial-{self.file.name}")
            partial.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")
            partial.rename(self.file)

    def _take_others(self) -> None:
        """What another call stored since this one read the file."""
        if not self.file.exists():
            return
        stored = _read(self.file)
        for key in ("trainings", "accuracies"):
            self._content[key] = {**stored[key], **self._content[key]}


@contextmanager
def _lock(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}): delete it, or give --out another directory") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise EvaluationError(f"{file} is no result of this benchmark: give --out another directory")
    return content
