"""How far ordinary adapters come back over shared KV, in which part of the steps of training anew.

Run: `make bench-adapters-back`. The tiny family's ordinary adapters go on over shared KV, by the data's labels alone
and by what the adapter itself says (`[distillation]`), in 10 to 100 % of the steps in which the accuracy benchmark
trains adapters anew. Every training and measurement is kept, and a killed run goes on.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.tries import (
    BACK_RATE,
    BATCH,
    BETA2,
    FULL,
    RESULTS,
    ROOT,
    TINY,
    WARMUP,
    Results,
    conversations,
    describe,
    finish,
    judge,
    percent,
    tiny_training,
)
from prefillshare.config.training import Distillation, Optimizer
from prefillshare.errors import PrefillShareError
from prefillshare.evaluation.suites.tiny import SUITE_SEED
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.progress import Reporter, make_reporter

NAME = "adapters-back"
WAYS: dict[str, Distillation | None] = {
    "labels": None,
    "answers": Distillation(states=0.0),
    "states": Distillation(),
}
"""What is learned from."""
LABELS = {
    "labels": "by the data alone",
    "answers": "and by what the adapter says",
    "states": "and by its hidden states",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Try:
    """One adapter that goes on, and is judged."""

    task: TaskName
    """What it knows."""
    way: str
    """What it learns from, a name of `WAYS`."""
    share: float
    """Part of the steps of training anew."""
    rate: float
    """Peak learning rate."""
    batch: int = BATCH
    """Conversations per step."""
    seed: int = 1
    """Of data and order."""
    states: float | None = None
    """Weight of the states, if not the usual one."""

    @property
    def name(self) -> str:
        weight = "" if self.states is None else f"{self.states:g}"
        return f"{self.task}-{self.way}{weight}-{round(100 * self.share)}-{self.rate:g}-{self.batch}-{self.seed}"

    @property
    def num_conversations(self) -> int:
        return round(self.share * FULL[self.task])


def measure(tries: list[Try], out: Path, work: Path, judged: tuple[int, int], reporter: Reporter) -> None:
    """Train and judge what is not there yet; `judged` are number and seed of the problems.

    Effects: writes trainings and results.
    """
    results = Results(out / f"{NAME}.json")
    num_problems, problem_seed = judged
    for task in dict.fromkeys(each.task for each in tries):
        if (name := f"{task}-naive") not in results.entries:
            found = judge(task, TINY / "naive" / task, 1.0, num_problems, problem_seed)
            results.put(name, found)
            reporter.say(f"{name}: {found['num_right']} of {found['num_problems']}")
    for each in tries:
        if each.name not in results.entries:
            train(each, work, reporter)
            found = judge(each.task, work / each.name, 1.0, num_problems, problem_seed)
            steps = each.num_conversations // each.batch
            settings = {"way": each.way, "share": each.share, "rate": each.rate, "batch": each.batch, "seed": each.seed}
            counts = {"num_steps": steps, "num_conversations": each.num_conversations}
            results.put(each.name, {**found, **settings, **counts})
            reporter.say(f"{each.name}: {found['num_right']} of {found['num_problems']} after {steps} steps")


def train(each: Try, work: Path, reporter: Reporter) -> None:
    """Effects: writes the adapter that went on."""
    data = conversations(work, each.task, each.seed, each.num_conversations)
    wanted = WAYS[each.way]
    if wanted is not None and each.states is not None:
        wanted = replace(wanted, states=each.states)
    training = tiny_training(
        each.name,
        data,
        work,
        each.seed,
        start=TINY / "naive" / each.task,
        distillation=wanted,
        optimizer=Optimizer(learning_rate=each.rate, warmup_ratio=WARMUP, beta2=BETA2),
    )
    finish(replace(training, batch=replace(training.batch, size=each.batch)), reporter)


def write_report(out: Path, results: Results) -> None:
    """Effects: writes adapters-back.md and .svg."""
    entries = results.entries
    tasks = [task for task in TASKS if f"{task}-naive" in entries]
    shares = sorted({entry["share"] for entry in entries.values() if "share" in entry})
    _plot(out / f"{NAME}.svg", entries, tasks)
    steps = ", ".join(f"{FULL[task] // BATCH:,} ({task})" for task in tasks)
    lines = [
        "# Ordinary adapters back over shared KV",
        "",
        f"`make bench-adapters-back`, {describe(results.machine)}. The tiny family's ordinary adapters go on over "
        f"shared KV. 100 % are the steps in which the accuracy benchmark trains adapters anew: {steps}, of {BATCH} "
        "conversations each; a part of them sees the same part of the conversations, each once. AdamW, cosine "
        "schedule, float32. "
        "Held-out problems over shared KV, greedy, by the reference computation; right answers in %.",
        "",
        "| steps, and conversations | 0 % | " + " | ".join(f"{share:.0%}" for share in shares) + " |",
        "|---" * (2 + len(shares)) + "|",
        *(line for task in tasks for line in _rows(entries, task, shares)),
        "",
        f"![accuracy over the steps]({NAME}.svg)",
        "",
        f"Every measurement, with its interval and learning rate: [{NAME}.json]({NAME}.json).",
        "",
    ]
    (out / f"{NAME}.md").write_text("\n".join(lines), encoding="utf-8")


def _rows(entries: dict[str, dict[str, Any]], task: TaskName, shares: list[float]) -> Iterator[str]:
    for way, label in LABELS.items():
        of = {entry["share"]: entry for entry in entries.values() if (entry["task"], entry.get("way")) == (task, way)}
        if of:
            cells = [percent(entries[f"{task}-naive"]), *(percent(of.get(share)) for share in shares)]
            yield f"| tiny-{task}, {label} | {' | '.join(cells)} |"


def _plot(file: Path, entries: dict[str, dict[str, Any]], tasks: list[TaskName]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size = (3.4 * len(tasks), 3.4)
    figure, axes = pyplot.subplots(1, len(tasks), figsize=size, sharey=True, layout="constrained", squeeze=False)
    for plot, task in zip(axes[0], tasks, strict=True):
        for (way, label), colour in zip(LABELS.items(), ("#7f7f7f", "#ff7f0e", "#2ca02c"), strict=True):
            of = [entry for entry in entries.values() if (entry["task"], entry.get("way")) == (task, way)]
            points = sorted((100 * entry["share"], 100 * entry["num_right"] / entry["num_problems"]) for entry in of)
            if points:
                naive = entries[f"{task}-naive"]
                start = (0, 100 * naive["num_right"] / naive["num_problems"])
                plot.plot(*zip(start, *points, strict=True), marker="o", label=label, color=colour)
        plot.set(title=f"tiny-{task}", xlabel="steps, % of training anew", ylim=(-3, 103))
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy over shared KV, %")
    axes[0][0].legend(fontsize="small", loc="lower right")
    # A file that only changes when its content does.
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Do what is left, and draw the curve."""
    given = _parse()
    torch.set_num_threads(1)
    keep_freed_memory()
    tries = [
        Try(task=task, way=way, share=float(share), rate=rate, batch=given.batch, seed=given.seed, states=given.states)
        for share in given.shares.split(",")
        for way in given.ways.split(",")
        for task in given.tasks.split(",")
        for rate in given.rates
    ]
    try:
        with make_reporter() as reporter:
            if given.train_only:
                for each in tries:
                    train(each, given.work.resolve(), reporter)
                return
            measure(tries, given.out, given.work.resolve(), (given.problems, given.problem_seed), reporter)
    except PrefillShareError as error:
        sys.exit(f"error: {error}")
    write_report(given.out, Results(given.out / f"{NAME}.json"))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of math,tool,code")
    parser.add_argument("--ways", default="labels,states", help=f"some of {','.join(WAYS)}")
    parser.add_argument("--shares", default="0.1,0.25,0.5,1", help="parts of the steps of training anew")
    parser.add_argument("--rates", type=float, nargs="+", default=[BACK_RATE], help="peak learning rates")
    parser.add_argument("--states", type=float, help="weight of the states")
    parser.add_argument("--batch", type=int, default=BATCH, help="conversations per step")
    parser.add_argument("--seed", type=int, default=1, help="of data and order")
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per measurement")
    parser.add_argument("--problem-seed", type=int, default=SUITE_SEED, help="other held-out problems than the suite's")
    parser.add_argument(
        "--train-only", action="store_true", help="train; another call judges, and trains nothing again"
    )
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-accuracy" / NAME)
    parser.add_argument("--out", type=Path, default=RESULTS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
