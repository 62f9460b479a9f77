"""What is trained and measured, and in which order."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from prefillshare.errors import EvaluationError
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName

Trained = Literal["full-ft", "full", "lora", "icarus"]
"""Ordinary fine-tuning of all weights; cache-conditioned, all weights, or an adapter; an adapter over base KV only."""

TRAINED: tuple[Trained, ...] = ("full-ft", "full", "lora", "icarus")
ADAPTERS: frozenset[Trained] = frozenset({"lora", "icarus"})
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0)
LOG_STEPS = 5
"""Steps of a training that the loss is a mean over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of the whole measurement; all modules of a task see the same data in the same order."""

    tasks: tuple[TaskName, ...] = TASKS
    """Tasks, each with data and held-out problems of its own."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of data, order and adapter."""
    num_conversations: Mapping[TaskName, int] = field(
        default_factory=lambda: {"math": 2000, "tool": 3000, "code": 2500}
    )
    """Conversations per training of a task, each with 3 to 5 answers, some of them for other tasks and not learned."""
    epochs: float = 1.0
    """Passes over them."""
    batch: int = 2
    """Conversations per step."""
    full_rate: float = 1.5e-3
    """Peak learning rate where all weights are trained."""
    lora_rate: float = 4e-3
    """Peak learning rate of adapters."""
    rank: int = 32
    """Rank of adapters; alpha is twice that."""
    num_problems: int = 500
    """Held-out problems per task."""
    ratios: tuple[float, ...] = RATIOS
    """Sharing ratios of the curve."""

    def __post_init__(self) -> None:
        needed = LOG_STEPS * self.batch
        for task, num in self.num_conversations.items():
            if num * self.epochs < needed:
                raise EvaluationError(f"{num} conversations of {task} are less than {LOG_STEPS} steps: give {needed}")

    def as_dict(self) -> dict[str, object]:
        """As it stands in JSON."""
        content: dict[str, object] = json.loads(json.dumps(asdict(self)))
        return content

    def sha256(self, *, of_training: bool = False) -> str:
        """Hash of what a stored result depends on; of the trained weights alone, if `of_training`."""
        relevant = replace(self, tasks=TASKS, seeds=(), ratios=())
        if of_training:
            relevant = replace(relevant, num_problems=0)
        return hashlib.sha256(json.dumps(relevant.as_dict(), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One trained module."""

    task: TaskName
    """What it learns."""
    trained: Trained
    """How."""
    seed: int
    """Of data, order and adapter."""

    @property
    def name(self) -> str:
        return f"{self.task}-{self.trained}-{self.seed}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One accuracy: of a module, or of the base, at a sharing ratio."""

    task: TaskName
    """Whose problems are asked."""
    run: Run | None
    """The module; None for the base alone."""
    ratio: float
    """Part of each prompt whose KV is the base's."""

    @property
    def name(self) -> str:
        return f"{self.run.name if self.run else f'{self.task}-base'}-{round(100 * self.ratio)}"


def runs(recipe: Recipe) -> Iterator[Run]:
    """All trainings."""
    for seed in recipe.seeds:
        for task in recipe.tasks:
            for trained in TRAINED:
                yield Run(task=task, trained=trained, seed=seed)


def steps(recipe: Recipe) -> Iterator[tuple[Run, list[Measurement]]]:
    """What is measured of which module, in order: a seed is complete before the next one begins, first its table."""
    for seed in recipe.seeds:
        of_seed = list(runs(replace(recipe, seeds=(seed,))))
        yield from ((run, list(table_measurements(recipe, run))) for run in of_seed)
        yield from ((run, list(curve_measurements(recipe, run))) for run in of_seed)


def table_measurements(recipe: Recipe, run: Run) -> Iterator[Measurement]:
    """What the main table needs of a trained module: an ordinary one also alone, without sharing."""
    for ratio in (0.0, 1.0) if run.trained == "full-ft" else (1.0,):
        if ratio in recipe.ratios:
            yield Measurement(task=run.task, run=run, ratio=ratio)


def curve_measurements(recipe: Recipe, run: Run) -> Iterator[Measurement]:
    """What only the curve over the sharing ratio needs of it: nothing of adapters."""
    in_table = {measurement.ratio for measurement in table_measurements(recipe, run)}
    for ratio in recipe.ratios:
        if run.trained not in ADAPTERS and ratio not in in_table:
            yield Measurement(task=run.task, run=run, ratio=ratio)


def base_measurements(recipe: Recipe) -> Iterator[Measurement]:
    """What is measured of the base."""
    for task in recipe.tasks:
        yield Measurement(task=task, run=None, ratio=1.0)
