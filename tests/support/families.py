"""Families that grow, for tests: task files over a random base, and tasks of random units without any training."""

from pathlib import Path

import torch

from prefillshare.config import GrowTask, load_grow_task
from prefillshare.config.training import PROJECTIONS
from prefillshare.grow.family import Family, GrownTask, Use, record_of
from prefillshare.grow.pool import append_records
from prefillshare.grow.publish import adapter_bytes, publish, sha256
from prefillshare.grow.run import begin
from prefillshare.grow.units import Units
from tests.support.training_runs import write_rows

NUM_ROWS = 12
UNIT_STRENGTH = 3.0


def write_grow_task(directory: Path, base: Path, name: str, *, head: str = "", growth: str = "") -> Path:
    """Write a task file, and its rows, into `directory`; `head` and `growth` are more lines of their tables."""
    write_rows(directory / "rows.jsonl", NUM_ROWS)
    file = directory / f"{name}.toml"
    file.write_text(
        f'name = "{name}"\nseed = 7\n{head}\n'
        f'[base]\npath = "{base}"\n'
        '[data]\nfile = "rows.jsonl"\ncolumns = { prompt = "question", answer = "answer" }\n'
        "[batch]\nmax_tokens = 256\nsize = 4\naccumulation = 1\n"
        "[optimizer]\nlearning_rate = 0.01\nepochs = 2\n"
        '[run]\ndtype = "fp32"\n'
        "[evaluation]\nrows = 4\n"
        f"[growth]\nunits = 2\nselect_epochs = 2\nretrain_epochs = 1\nmax_rounds = 1\n{growth}\n"
    )
    return file


def load_task(directory: Path, base: Path, name: str, *, head: str = "", growth: str = "") -> GrowTask:
    """The same, read."""
    return load_grow_task(write_grow_task(directory, base, name, head=head, growth=growth))


def add_random_task(directory: Path, base: Path, name: str, *, seed: int) -> GrownTask:
    """Append a task of random units, of another number in each matrix, which reuses every second one of earlier tasks.

    Effects: the family is begun when there is none; the module is written.
    """
    directory.mkdir(exist_ok=True)
    family = Family(directory)
    first = () if family.identity else (None,)
    if first:
        begin(family, base, base.name, PROJECTIONS)
    generator = torch.Generator().manual_seed(seed)
    uses = {
        matrix: _random_use(len(family.units(matrix)), shape, number % 4, generator)
        for number, (matrix, shape) in enumerate(family.shapes.items())
    }
    figures = {
        "config": {"seed": seed},
        "data": {"sha256": "sha256:none", "num_rows": 1},
        "held_out_loss": {"prune": 1.0},
    }
    draft = GrownTask(name=name, stamp=len(family.tasks) + 1, uses=uses, adapter_sha256="", figures=figures)
    task = GrownTask(
        name=name, stamp=draft.stamp, uses=uses, adapter_sha256=sha256(adapter_bytes(family, draft)), figures=figures
    )
    append_records(family.file, family.pool, (*(family.first_record() for _ in first), record_of(task)))
    family.add(task)
    publish(family, task)
    return task


def _random_use(num_known: int, shape: tuple[int, int], num_new: int, generator: torch.Generator) -> Use:
    reused = torch.arange(0, num_known, 2)
    return Use(
        reused=reused,
        reused_gates=UNIT_STRENGTH * torch.randn(len(reused), generator=generator),
        new=Units(
            incoming=_directions(num_new, shape[0], generator), outgoing=_directions(num_new, shape[1], generator)
        ),
        new_gates=UNIT_STRENGTH * torch.ones(num_new),
        parents=torch.full((num_new,), -1),
    )


def _directions(num: int, size: int, generator: torch.Generator) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(num, size, generator=generator), dim=1)
