"""What a family knows: which base it stands on, all units with their stamps, and which of them each task uses."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prefillshare.errors import TrainingError
from prefillshare.grow.pool import POOL_NAME, PoolFile, Record, read_pool
from prefillshare.grow.units import Units, no_units, scale

FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What one task takes in one matrix.

    Shapes: r units of earlier tasks, n units of its own.
    """

    reused: Tensor
    """Numbers of the earlier units in the matrix's pool [r], int64."""
    reused_gates: Tensor
    """How strongly each counts [r], float32."""
    new: Units
    """Units of its own, of unit length."""
    new_gates: Tensor
    """How strongly each counts [n], float32."""
    parents: Tensor
    """Number of the unit that a new one is a moved copy of [n], int64; -1 for a unit that was added."""

    @property
    def rank(self) -> int:
        return len(self.reused_gates) + len(self.new_gates)


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownTask:
    """A task that the family has learned."""

    name: str
    """Its name."""
    stamp: int
    """Its number, counted from 1; units that it added bear it."""
    uses: Mapping[str, Use]
    """What it takes, by matrix."""
    adapter_sha256: str
    """Hash of its adapter_model.safetensors."""
    figures: Mapping[str, Any]
    """What its run measured, and from what it was made."""


class Family:
    """All that a pool file says."""

    def __init__(self, directory: Path) -> None:
        """Read a family; one that does not exist yet has no task.

        Raises: TrainingError when its pool cannot be used.
        """
        self.directory, self.file = directory, directory / POOL_NAME
        self.pool: PoolFile = read_pool(self.file)
        self.tasks: list[GrownTask] = []
        self._units: dict[str, Units] = {}
        self._stamps: dict[str, list[int]] = {}
        self.identity: Mapping[str, Any] | None = None
        if self.pool.records:
            self._open(self.pool.records[0].header)
            for record in self.pool.records[1:]:
                self.add(task_of(record))

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(in, out) of every matrix that carries units."""
        assert self.identity is not None
        return {name: (shape[0], shape[1]) for name, shape in self.identity["shapes"].items()}

    def tell_left_out(self) -> str | None:
        """What to say of the end of the pool, where an interrupted run left one."""
        if not (num_bytes := self.pool.num_cut_bytes):
            return None
        return f"{self.file}: the last {num_bytes} bytes are of a run that was interrupted, left out"

    def begin(self, identity: Mapping[str, Any]) -> None:
        """Take what a new family stands on; `first_record` stores it."""
        self._open({"kind": "family", "format": FORMAT, **identity})

    def first_record(self) -> Record:
        """The record that a family begins with."""
        assert self.identity is not None
        return Record(header=self.identity, tensors={})

    def task(self, name: str) -> GrownTask | None:
        """The task of that name."""
        return next((task for task in self.tasks if task.name == name), None)

    def units(self, matrix: str) -> Units:
        """All units of a matrix, in the order of their numbers."""
        return self._units[matrix]

    def gates_of(self, task: GrownTask | None, matrix: str) -> Tensor:
        """Gates of a task over all units of a matrix, 0 where it uses none; all 0 without a task."""
        gates = torch.zeros(len(self.units(matrix)))
        if task is not None:
            gates[task.uses[matrix].reused] = task.uses[matrix].reused_gates
            gates[self.stamps(matrix) == task.stamp] = task.uses[matrix].new_gates
        return gates

    def stamps(self, matrix: str) -> Tensor:
        """The stamp of each."""
        return torch.tensor(self._stamps[matrix], dtype=torch.int64)

    def module(self, name: str) -> Path:
        """Directory of a task's adapter."""
        return self.directory / name

    def add(self, task: GrownTask) -> None:
        """Number the units of a task behind those there are."""
        for matrix, use in task.uses.items():
            self._units[matrix] = self._units[matrix].join(use.new)
            self._stamps[matrix] += [task.stamp] * len(use.new)
        self.tasks.append(task)

    def sum_of(self, task: GrownTask, matrix: str) -> Units:
        """The units that a task sums up in a matrix, each gate multiplied into b_u."""
        use = task.uses[matrix]
        units = self._units[matrix].take(use.reused).join(use.new)
        return scale(units, torch.cat((use.reused_gates, use.new_gates)))

    def _open(self, header: Mapping[str, Any]) -> None:
        if header.get("kind") != "family" or header.get("format") != FORMAT:
            raise TrainingError(
                f"{self.file} begins with format {header.get('format')!r} and this version reads {FORMAT}: update "
                "prefillshare"
            )
        self.identity = header
        self._units = {name: no_units(*shape) for name, shape in self.shapes.items()}
        self._stamps = {name: [] for name in self.shapes}


def record_of(task: GrownTask) -> Record:
    """A task as it stands in the pool."""
    tensors = {f"{matrix}/{key}": value for matrix, use in task.uses.items() for key, value in _tensors(use)}
    header = {
        "kind": "task",
        "name": task.name,
        "stamp": task.stamp,
        "matrices": list(task.uses),
        "adapter_sha256": task.adapter_sha256,
        "figures": task.figures,
    }
    return Record(header=header, tensors=tensors)


def task_of(record: Record) -> GrownTask:
    """The task that a record holds."""
    header, tensors = record.header, record.tensors
    return GrownTask(
        name=header["name"],
        stamp=header["stamp"],
        uses={matrix: _use(tensors, matrix) for matrix in header["matrices"]},
        adapter_sha256=header["adapter_sha256"],
        figures=header["figures"],
    )


def _tensors(use: Use) -> Iterator[tuple[str, Tensor]]:
    yield "reused", use.reused
    yield "reused_gates", use.reused_gates
    yield "incoming", use.new.incoming
    yield "outgoing", use.new.outgoing
    yield "new_gates", use.new_gates
    yield "parents", use.parents


def _use(tensors: Mapping[str, Tensor], matrix: str) -> Use:
    return Use(
        reused=tensors[f"{matrix}/reused"],
        reused_gates=tensors[f"{matrix}/reused_gates"],
        new=Units(incoming=tensors[f"{matrix}/incoming"], outgoing=tensors[f"{matrix}/outgoing"]),
        new_gates=tensors[f"{matrix}/new_gates"],
        parents=tensors[f"{matrix}/parents"],
    )


def count_parameters(shapes: Mapping[str, tuple[int, int]], uses: Mapping[str, Use]) -> int:
    """Numbers that a task adds to the family: its units and all of its gates."""
    return sum(len(use.new) * sum(shapes[matrix]) + use.rank for matrix, use in uses.items())


def count_separate(shapes: Mapping[str, tuple[int, int]], rank: int) -> int:
    """Numbers of an ordinary adapter of a rank over the same matrices."""
    return sum(rank * sum(shape) for shape in shapes.values())


def reused_by_task(family: Family, task: GrownTask) -> dict[str, int]:
    """How many units a task uses of each earlier one."""
    names = {known.stamp: known.name for known in family.tasks}
    counts: dict[str, int] = {}
    for matrix, use in task.uses.items():
        for stamp in family.stamps(matrix)[use.reused].tolist():
            counts[names[stamp]] = counts.get(names[stamp], 0) + 1
    return counts


def count_units(uses: Mapping[str, Use]) -> dict[str, int]:
    """Units that a task added, split off from earlier ones, and reused, over all matrices."""
    num_split = sum(int((use.parents >= 0).sum()) for use in uses.values())
    num_new = sum(len(use.new) for use in uses.values()) - num_split
    return {"new": num_new, "split": num_split, "reused": sum(len(use.reused) for use in uses.values())}
