"""A family that grows over eight tasks, beside modules trained alone and one module trained on everything.

Run: `make bench-grow`. Each task is grown, and trained alone with the same data, by the same loop and the same rule for
when to stop, with rank 32; answers are asked for by the reference computation and judged letter by letter. After each
task, the hashes of all earlier modules are compared with what they were. Every finished step is kept: a killed run goes
on with the task at which it was. The three ways read nothing of each other, so they can run side by side:
`--ways grown`, `--ways alone`, `--ways joint`.
"""

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.grow.report import write_report
from benchmarks.grow.tasks import TASKS, Task, questions, write_task, write_whole
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
WAYS = ("grown", "alone", "joint")
TAU, MAX_CYCLES = 0.004, 2
"""When to stop: at this held-out loss, when a cycle of passes is no gain, or after so many."""
RATE = 4e-3
"""The accuracy benchmark's for rank 32."""
GROWTH = Growth(tau=TAU, units=RANK, max_cycles=MAX_CYCLES, prune_tolerance=0.1)
ALONE = Growth(tau=TAU, units=RANK, max_cycles=MAX_CYCLES + 1, prune_tolerance=0.0)
"""A cycle more, for the passes that repairs take in the family; all of rank 32 stays."""
SELECTING_EPOCHS = 3.0
"""Passes per cycle that a module alone has more than a later task of the family: as many as that has before its first
cycle, in trial, selection and retraining."""
JOINT_EPOCHS = 3
"""Passes per cycle of the one module: it sees every conversation of all tasks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Where things are."""

    tiny: Path
    """Directory of the tiny family."""
    work: Path
    """Data and families."""
    out: Path
    """grow.md, grow.json and the plots."""


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
    for seed in options.seeds:
        Benchmark(places, chosen, options.problems, seed, options.repairs).run(options.ways.split(","))


class Benchmark:
    """The whole measurement with one seed."""

    def __init__(
        self, places: Places, tasks: list[Task], num_problems: int, seed: int, max_repairs: int = GROWTH.max_repairs
    ) -> None:
        self._places, self._tasks, self._num_problems, self._seed = places, tasks, num_problems, seed
        self._growth = replace(GROWTH, max_repairs=max_repairs)
        # Of the program that runs, whatever is committed while it does.
        self._commit, self._work = read_commit(ROOT), folder_of(places, seed)
        self._work.mkdir(exist_ok=True)

    def run(self, ways: Sequence[str]) -> None:
        """Learn the tasks in some ways, task by task, so that there is something to compare early."""
        for task, way in product(self._tasks, ways):
            if way != "joint":
                self._keep(f"{way}-{task.name}", lambda: self._learn(way, task))  # noqa: B023 - called at once
        if "joint" in ways:
            self._keep("joint", self._learn_joint)

    def _keep(self, step: str, measure: Callable[[], dict[str, Any]]) -> None:
        """Measure what is not there yet."""
        file = self._work / f"{step}.json"
        if not file.exists():
            write_whole(file, json.dumps({**measure(), "commit": self._commit}, indent=1) + "\n")
        self._report()

    def _learn(self, way: str, task: Task) -> dict[str, Any]:
        is_grown = way == "grown"
        directory = self._work / ("family" if is_grown else f"alone-{task.name}")
        settings = self.settings(task, self.data(task), self._growth if is_grown else ALONE)
        seconds = self._grow(directory, settings)
        known = Family(directory).task(task.name)
        assert known is not None
        losses = known.figures["held_out_loss"]
        return {"accuracy": self._accuracy(task, directory / task.name), "losses": losses, "seconds": seconds}

    def _learn_joint(self) -> dict[str, Any]:
        data, directory = self._work / "all.jsonl", self._work / "joint"
        write_whole(data, "".join(self.data(task).read_text() for task in self._tasks))
        num = sum(task.num_conversations for task in self._tasks)
        everything = replace(self._tasks[0], name="all", num_conversations=num, epochs=JOINT_EPOCHS)
        seconds = self._grow(directory, self.settings(everything, data, ALONE))
        return {
            "accuracies": {task.name: self._accuracy(task, directory / "all") for task in self._tasks},
            "seconds": seconds,
        }

    def _grow(self, directory: Path, settings: GrowTask) -> float:
        """Returns CPU seconds; 0 where a run that was killed afterwards has done it."""
        started = time.process_time()
        if Family(directory).task(settings.name) is None:
            grow(directory, settings, LineReporter())
        check_modules(Family(directory))
        return round(time.process_time() - started, 1)

    def settings(self, task: Task, data: Path, growth: Growth) -> GrowTask:
        """How a task is learned, grown or alone."""
        is_later_alone = growth is ALONE and task.name in [later.name for later in self._tasks[1:]]
        epochs = task.epochs + (SELECTING_EPOCHS if is_later_alone else 0.0)
        return GrowTask(
            name=task.name,
            seed=self._seed,
            base=BaseModel(path=self._places.tiny / "base"),
            data=Data(file=data, columns=Columns(messages="messages")),
            batch=Batch(max_tokens=2048, size=4, accumulation=1, packed=False),
            optimizer=Optimizer(learning_rate=RATE, epochs=epochs, warmup_ratio=0.05, beta2=0.98),
            run=Run(dtype="fp32"),
            evaluation=HeldOut(rows=task.num_conversations // 10),
            growth=growth,
        )

    def _accuracy(self, task: Task, module: Path) -> float:
        asked = questions(task, self._num_problems)
        answers = TinyAnswers(self._places.tiny, module.resolve()).answer([messages for messages, _ in asked])
        is_right = [given.strip() == wanted for given, (_, wanted) in zip(answers, asked, strict=True)]
        return sum(is_right) / len(is_right)

    def data(self, task: Task) -> Path:
        """Its conversations.

        Effects: writes the file where it is not there.
        """
        file = self._work / f"{task.name}-{task.num_conversations}.jsonl"
        if not file.exists():
            write_task(file, task, self._seed)
        return file

    def _report(self) -> None:
        seeds = sorted(int(folder.name.removeprefix("seed-")) for folder in self._places.work.glob("seed-*"))
        results = {
            "runs": [self._results(seed) for seed in seeds],
            "tasks": [task.name for task in self._tasks],
            "num_problems": self._num_problems,
            "rank": RANK,
            "max_repairs": self._growth.max_repairs,
            "machine": f"{platform.machine()}, Python {platform.python_version()}, PyTorch {torch.__version__}",
        }
        write_whole(self._places.out / "grow.json", json.dumps(results, indent=1) + "\n")
        write_report(results, self._places.out)

    def _results(self, seed: int) -> dict[str, Any]:
        """What is measured so far of one seed."""
        folder = folder_of(self._places, seed)
        done = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
        family = Family(folder / "family")
        return {
            "seed": seed,
            "tasks": {
                task.name: {"num_conversations": task.num_conversations}
                | {way: done[f"{way}-{task.name}"] for way in ("grown", "alone") if f"{way}-{task.name}" in done}
                for task in self._tasks
            },
            "joint": done.get("joint"),
            "rows": task_rows(family),
            "total": summary(family, RANK) if family.tasks else None,
        }


def read_commit(directory: Path) -> str:
    """The commit that is checked out there; "unknown" where that cannot be told."""
    command = ["git", "rev-parse", "--short=8", "HEAD"]
    try:
        found = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()


def folder_of(places: Places, seed: int) -> Path:
    """Data and families of a seed."""
    return places.work / f"seed-{seed}"


def _shorter(task: Task, most: int | None) -> Task:
    return task if most is None else replace(task, num_conversations=min(most, task.num_conversations))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", help="some of the tasks, in their order; default all")
    parser.add_argument("--conversations", type=int, help="at most so many per task")
    parser.add_argument("--problems", type=int, default=200, help="held-out questions per task")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="one run each")
    parser.add_argument("--ways", default=",".join(WAYS), help="some of grown, alone, joint; default all")
    parser.add_argument(
        "--repairs",
        type=int,
        default=GROWTH.max_repairs,
        help="max_repairs of the family; another number, another --work",
    )
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="directory that holds tiny/base")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-grow", help="data and families")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="grow.md, grow.json and plots")
    return parser.parse_args()


if __name__ == "__main__":
    main()
