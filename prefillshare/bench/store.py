"""A measurement on disk: its plan, and a file per finished run, so that it can be taken up again.

DIR/plan.json                        what is measured
DIR/machine.json                     where, with which versions
DIR/runs/CELL.json                   every call of one run
DIR/summary.json, report.*, plots/   made from these
"""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefillshare.bench.plan import Cell, Plan
from prefillshare.bench.records import RunRecord
from prefillshare.errors import BenchError


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """One finished run."""

    record: RunRecord
    """What happened."""
    commands: list[str] = field(default_factory=list)
    """What had been started for it."""
    context_length: int
    """Context window that the workload was made for."""


class Store:
    """The directory of one measurement."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._runs = directory / "runs"

    def check_new(self) -> None:
        """Whether a new measurement may be written here: nothing may stand in it yet.

        Raises: BenchError when something does.
        """
        where = self.directory
        if (where / "plan.json").exists():
            raise BenchError(f"{where} holds a measurement: continue it with --resume, or choose another --out")
        if os.path.lexists(where) and not where.is_dir():
            raise BenchError(f"{where} is not a directory: choose another --out")
        try:
            found = next(where.iterdir(), None) if where.exists() else None
        except OSError as error:
            raise BenchError(f"{where} cannot be read ({error.strerror}): choose another --out") from None
        if found is not None:
            raise BenchError(
                f"{where} holds other files ({found.name}): name a new or empty directory with --out, or with --resume "
                "one that holds a measurement"
            )

    def begin(self, plan: Plan, machine: dict[str, Any]) -> None:
        """Write down what will be measured, and where.

        Raises: BenchError when there is something already, or the directory cannot be written.
        """
        self.check_new()
        where = self.directory
        try:
            self._runs.mkdir(parents=True, exist_ok=True)
            self.write_json("plan.json", plan.as_dict())
            self.write_json("machine.json", machine)
        except OSError as error:
            raise BenchError(f"{where} cannot be written ({error.strerror}): choose another --out") from None

    def plan(self) -> Plan:
        """The plan of the measurement.

        Raises: BenchError when there is none.
        """
        return Plan.from_dict(self._read("plan.json"))

    def machine(self) -> dict[str, Any]:
        """The machine on which it was begun."""
        return self._read("machine.json")

    def has(self, cell: Cell) -> bool:
        """Whether a run is finished."""
        return self._file(cell).is_file()

    def put(self, cell: Cell, run: StoredRun) -> None:
        """Keep a finished run."""
        content = {
            "record": run.record.as_dict(),
            "commands": run.commands,
            "context_length": run.context_length,
        }
        _write(self._file(cell), json.dumps(content))

    def get(self, cell: Cell) -> StoredRun:
        """A finished run.

        Raises: BenchError when its file is damaged.
        """
        file = self._file(cell)
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            return StoredRun(**{**content, "record": RunRecord.from_dict(content["record"])})
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BenchError(f"{file} cannot be read ({error!r}): delete it, and --resume measures it again") from None

    def write_json(self, name: str, content: object) -> None:
        """Write one of the measurement's files."""
        _write(self.directory / name, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def log_dir(self, cell: Cell) -> Path:
        """Directory for the logs of the engines that are started for `cell`."""
        path = self.directory / "logs" / f"n{cell.num_modules}-{cell.system}-r{cell.repeat}"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, cell: Cell) -> Path:
        return self._runs / f"{cell.key}.json"

    def _read(self, name: str) -> dict[str, Any]:
        try:
            content: dict[str, Any] = json.loads((self.directory / name).read_text(encoding="utf-8"))
            return content
        except (OSError, ValueError) as error:
            raise BenchError(
                f"{self.directory} holds no measurement ({error}): name the directory of one that was begun"
            ) from None


def _write(file: Path, text: str) -> None:
    """Write a file complete or not at all: a run may be interrupted at any moment."""
    staging = file.with_name(f".{file.name}.part")
    staging.write_text(text, encoding="utf-8")
    os.replace(staging, file)
