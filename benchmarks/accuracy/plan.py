"""What is trained and measured, and in which order."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Literal

from prefillshare.modules.tiny.conversations import TASKS
from prefillshare.modules.tiny.tasks import TaskName

Trained = Literal["full-ft", "full", "lora"]
"""Ordinary fine-tuning of all weights; cache-conditioned, all weights; cache-conditioned, an adapter."""

TRAINED: tuple[Trained, ...] = ("full-ft", "full", "lora")
RATIOS = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Settings of the whole measurement; all modules of a task see the same data in the same order."""

    tasks: tuple[TaskName, ...] = TASKS
    """Tasks, each with data and held-out problems of its own."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Seeds of data, order and adapter."""
    num_conversations: int = 2000
    """Conversations per training, each with 2 to 5 answers."""
    epochs: float = 1.0
    """Passes over them."""
    batch: int = 4
    """Conversations per step."""
    full_rate: float = 5e-4
    """Peak learning rate where all weights are trained."""
    lora_rate: float = 2e-3
    """Peak learning rate of adapters."""
    rank: int = 32
    """Rank of adapters; alpha is twice that."""
    num_problems: int = 500
    """Held-out problems per task."""
    ratios: tuple[float, ...] = RATIOS
    """Sharing ratios of the curve."""

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
    """All trainings; a seed is complete before the next one begins, so that a part of the runs is a whole table."""
    for seed in recipe.seeds:
        for task in recipe.tasks:
            for trained in TRAINED:
                yield Run(task=task, trained=trained, seed=seed)


def measurements(recipe: Recipe, run: Run) -> Iterator[Measurement]:
    """What is measured of a trained module."""
    for ratio in recipe.ratios:
        if run.trained != "lora" or ratio == 1:
            yield Measurement(task=run.task, run=run, ratio=ratio)


def base_measurements(recipe: Recipe) -> Iterator[Measurement]:
    """What is measured of the base."""
    for task in recipe.tasks:
        yield Measurement(task=task, run=None, ratio=1.0)
