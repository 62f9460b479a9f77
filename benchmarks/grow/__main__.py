"""A family that grows over eight tasks, beside modules trained alone and one module trained on everything.

Run: `make bench-grow`. Each task is grown, and trained alone with the same data, the same loop, the same passes and
rank 32; answers are asked for by the reference computation and judged letter by letter. After each task, the answers
of all earlier modules are hashes that must be what they were. Every finished step is kept: a killed run goes on with
the task at which it was.
"""

import argparse
import json
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.grow.report import write_report
from benchmarks.grow.tasks import TASKS, Task, questions, write_task
from prefillshare.config.growing import GrowTask, Growth
from prefillshare.config.training import BaseModel, Batch, Columns, Data, HeldOut, Optimizer, Run
from prefillshare.grow.family import Family
from prefillshare.grow.publish import check_modules
from prefillshare.grow.report import summary, task_rows
from prefillshare.grow.run import grow
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.progress import LineReporter

ROOT = Path(__file__).parents[2]
RANK = 32
GROWTH = Growth(tau=0.02, units=8, max_rounds=2, min_gain=0.2, select_epochs=3, retrain_epochs=2, group_lasso=0.02)
ALONE = Growth(units=RANK, max_rounds=1, group_lasso=0.0, prune_tolerance=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are."""

    tiny: Path
    """Directory of the tiny family."""
    work: Path
    """Data and families."""
    out: Path
    """grow.md, grow.json, grow.svg."""


def main() -> None:
    """Do what is left, and write the report after every task."""
    options = _options()
    torch.set_num_threads(1)
    keep_freed_memory()
    places = Places(tiny=options.models / "tiny", work=options.work, out=options.out)
    places.work.mkdir(parents=True, exist_ok=True)
    places.out.mkdir(parents=True, exist_ok=True)
    names = options.tasks.split(",") if options.tasks else [task.name for task in TASKS]
    chosen = [_shorter(task, options.conversations) for task in TASKS if task.name in names]
    Benchmark(places, options.problems, options.seed).run(chosen, has_joint=not options.no_joint)


class Benchmark:
    """The whole measurement."""

    def __init__(self, places: Places, num_problems: int, seed: int) -> None:
        self._places, self._num_problems, self._seed = places, num_problems, seed
        self._file = places.out / "grow.json"
        self._results: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {"tasks": {}}

    def run(self, tasks: list[Task], *, has_joint: bool) -> None:
        """Task after task, then the one module for all."""
        for task in tasks:
            self._task(task)
        if has_joint and "joint" not in self._results:
            self._joint(tasks)
        self._report()

    def _task(self, task: Task) -> None:
        entry = self._results["tasks"].setdefault(task.name, {"num_conversations": task.num_conversations})
        data = self._data(task)
        for way, directory, growth in (
            ("grown", self._places.work / "family", GROWTH),
            ("alone", self._places.work / "alone" / task.name, ALONE),
        ):
            if way not in entry:
                entry[way] = self._learn(task, directory, data, growth)
                self._report()

    def _learn(self, task: Task, directory: Path, data: Path, growth: Growth) -> dict[str, Any]:
        started = time.process_time()
        directory.mkdir(parents=True, exist_ok=True)
        if Family(directory).task(task.name) is None:
            grow(directory, self._settings(task, data, growth), LineReporter())
        seconds = round(time.process_time() - started, 1)
        family = Family(directory)
        check_modules(family)
        accuracy = self._accuracy(task, family.module(task.name))
        known = family.task(task.name)
        assert known is not None
        losses = known.figures["held_out_loss"]
        return {"accuracy": accuracy, "loss": losses["prune"], "losses": losses, "seconds": seconds}

    def _joint(self, tasks: list[Task]) -> None:
        data = self._places.work / "all.jsonl"
        data.write_text("".join(self._data(task).read_text() for task in tasks))
        num = sum(task.num_conversations for task in tasks)
        everything = replace(tasks[0], name="all", num_conversations=num, epochs=min(task.epochs for task in tasks))
        directory = self._places.work / "joint"
        started = time.process_time()
        directory.mkdir(parents=True, exist_ok=True)
        if Family(directory).task("all") is None:
            grow(directory, self._settings(everything, data, ALONE), LineReporter())
        seconds = round(time.process_time() - started, 1)
        accuracies = {task.name: self._accuracy(task, directory / "all") for task in tasks}
        self._results["joint"] = {"accuracies": accuracies, "seconds": seconds}

    def _settings(self, task: Task, data: Path, growth: Growth) -> GrowTask:
        epochs = float(task.epochs)
        if growth is ALONE:
            # As many passes as the family has for a task: selecting, retraining, settling, one round.
            epochs = GROWTH.select_epochs + GROWTH.retrain_epochs + 2 * task.epochs
        return GrowTask(
            name=task.name,
            seed=self._seed,
            base=BaseModel(path=self._places.tiny / "base"),
            data=Data(file=data, columns=Columns(messages="messages")),
            batch=Batch(max_tokens=2048, size=8, accumulation=1, packed=False),
            optimizer=Optimizer(learning_rate=4e-3, epochs=epochs, warmup_ratio=0.05, beta2=0.98),
            run=Run(dtype="fp32"),
            evaluation=HeldOut(rows=task.num_conversations // 10),
            growth=growth,
        )

    def _accuracy(self, task: Task, module: Path) -> float:
        asked = questions(task, self._num_problems)
        answers = TinyAnswers(self._places.tiny, module.resolve()).answer([messages for messages, _ in asked])
        is_right = [given.strip() == wanted for given, (_, wanted) in zip(answers, asked, strict=True)]
        return sum(is_right) / len(is_right)

    def _data(self, task: Task) -> Path:
        file = self._places.work / f"{task.name}-{task.num_conversations}.jsonl"
        if not file.exists():
            write_task(file, task, self._seed)
        return file

    def _report(self) -> None:
        family = Family(self._places.work / "family")
        self._results |= {
            "rows": task_rows(family),
            "total": summary(family, RANK),
            "num_problems": self._num_problems,
            "seed": self._seed,
            "machine": f"{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}",
        }
        partial = self._file.with_name("partial-grow.json")
        partial.write_text(json.dumps(self._results, indent=1) + "\n")
        partial.rename(self._file)
        write_report(self._results, self._places.out)


def _shorter(task: Task, most: int | None) -> Task:
    return task if most is None else replace(task, num_conversations=min(most, task.num_conversations))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", help="some of the tasks, in their order; default all")
    parser.add_argument("--conversations", type=int, help="at most so many per task")
    parser.add_argument("--problems", type=int, default=200, help="held-out questions per task")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-joint", action="store_true", help="leave out the module for all tasks")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="directory that holds tiny/base")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-grow", help="data and families")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="grow.md, grow.json, grow.svg")
    return parser.parse_args()


if __name__ == "__main__":
    main()
