"""Accuracy over the sharing ratio of modules that were trained for a range of it, beside the family's own.

Run: `make bench-sharing-ratio`. The tiny family's ordinary adapters go on with `sharing_ratio = [0.0, 1.0]` and learn
from themselves over KV of their own, as with `prefillshare adapt --any-ratio`; with `--anew`, fresh adapters are
trained for it by the accuracy benchmark's recipe. Every training and measurement is kept, and a killed run goes on.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.plan import RATIOS
from benchmarks.accuracy.tries import (
    BACK_RATE,
    BATCH,
    BETA2,
    FULL,
    RATE,
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
from prefillshare.config.training import Distillation, Lora, Optimizer
from prefillshare.errors import PrefillShareError
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.training.memory import keep_freed_memory
from prefillshare.training.progress import Reporter, make_reporter

NAME = "sharing-ratio"
WAYS = (
    ("ordinary adapter gone on for 0 to 100 %", "back"),
    ("trained anew for 0 to 100 %", "anew"),
    ("trained anew for 100 %, as shipped", "shipped"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What is measured, and where it is kept."""

    tasks: tuple[TaskName, ...]
    """Tasks, in order."""
    way: str
    """How the modules for any ratio are trained, a name of `WAYS`."""
    seed: int
    """Of data, order, ratios and adapter."""
    num_conversations: dict[TaskName, int]
    """Of a training."""
    num_problems: int
    """Held-out problems of a measurement."""
    train_only: bool
    """Whether another call judges, which trains nothing again."""
    ratios: tuple[float, ...]
    """At which modules are judged."""
    work: Path
    """Trained weights and checkpoints."""
    out: Path
    """Directory of the results."""


def main() -> None:
    """Do what is left, and write the report."""
    options = _options()
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        with make_reporter() as reporter:
            measure(options, reporter)
    except PrefillShareError as error:
        sys.exit(f"error: {error}")


def measure(options: Options, reporter: Reporter) -> None:
    """Train and judge what is not there yet.

    Effects: writes trainings, results and report.
    """
    results = Results(options.out / f"{NAME}.json")
    for task in options.tasks:
        module = _train(options, task, reporter)
        if options.train_only:
            continue
        trained = {"task": task, "num_conversations": options.num_conversations[task], "seed": options.seed}
        results.put(f"{task}-{options.way}", trained)
        for way, directory in ((options.way, module), ("shipped", TINY / task)):
            _judge_curve(options, results, reporter, (task, way, directory))
    if not options.train_only:
        write_report(options.out, results, options.ratios)


def _train(options: Options, task: TaskName, reporter: Reporter) -> Path:
    """Return the module of a task, trained if it is not there yet."""
    name = f"{task}-{options.way}"
    data = conversations(options.work, task, options.seed, options.num_conversations[task])
    start: dict[str, Any] = {"lora": Lora(rank=32, alpha=64)}
    if options.way == "back":
        optimizer = Optimizer(learning_rate=BACK_RATE, warmup_ratio=WARMUP, beta2=BETA2)
        start = {"start": TINY / "naive" / task, "distillation": Distillation(), "optimizer": optimizer}
    run = tiny_training(name, data, options.work, options.seed, sharing_ratio=(0.0, 1.0), **start)
    finish(run, reporter)
    return run.output


def _judge_curve(options: Options, results: Results, reporter: Reporter, of: tuple[TaskName, str, Path]) -> None:
    task, way, directory = of
    for ratio in options.ratios:
        name = f"{task}-{way}-{round(100 * ratio)}"
        if name not in results.entries:
            found = judge(task, directory, ratio, options.num_problems)
            results.put(name, {**found, "way": way})
            reporter.say(f"{name}: {found['num_right']} of {found['num_problems']}")


def write_report(out: Path, results: Results, ratios: tuple[float, ...]) -> None:
    """Effects: writes sharing-ratio.md and .svg."""
    entries = results.entries
    tasks = [task for task in TASKS if f"{task}-shipped-100" in entries]
    _plot(out / f"{NAME}.svg", entries, tasks)
    lines = [
        "# Modules for any sharing ratio",
        "",
        f"`make bench-sharing-ratio`, {describe(results.machine)}. Tiny family, float32: adapters of rank 32, trained "
        f"with `sharing_ratio = [0.0, 1.0]`, {BATCH} conversations per step, AdamW, cosine schedule; beside them the "
        "modules as shipped, which saw no other ratio than 100 %. Held-out problems, greedy, by the reference "
        "computation; right answers in %, where it is not 500 with their number.",
        "",
        *_settings(entries, tasks),
        "",
        "| KV of the prompt that is the base's | " + " | ".join(f"{ratio:.0%}" for ratio in ratios) + " |",
        "|---" * (1 + len(ratios)) + "|",
        *(line for task in tasks for line in _rows(entries, task, ratios)),
        "",
        f"![accuracy over the sharing ratio]({NAME}.svg)",
        "",
        f"Every measurement, with its interval: [{NAME}.json]({NAME}.json).",
        "",
    ]
    (out / f"{NAME}.md").write_text("\n".join(lines), encoding="utf-8")


def _settings(entries: dict[str, dict[str, Any]], tasks: list[TaskName]) -> Iterator[str]:
    for label, way in WAYS:
        nums = {task: entries[f"{task}-{way}"]["num_conversations"] for task in tasks if f"{task}-{way}" in entries}
        if nums:
            told = ", ".join(f"{num:,} ({task}, {num / FULL[task]:.0%} of training anew)" for task, num in nums.items())
            rate = BACK_RATE if way == "back" else RATE
            yield f"- {label}: {told} conversations, peak learning rate {rate:g}"


def _rows(entries: dict[str, dict[str, Any]], task: str, ratios: tuple[float, ...]) -> Iterator[str]:
    for label, way in WAYS:
        found = [entries.get(f"{task}-{way}-{round(100 * ratio)}") for ratio in ratios]
        if any(found):
            yield f"| tiny-{task}, {label} | " + " | ".join(percent(entry) for entry in found) + " |"


def _plot(file: Path, entries: dict[str, dict[str, Any]], tasks: list[TaskName]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size = (3.4 * max(1, len(tasks)), 3.4)
    figure, axes = pyplot.subplots(
        1, max(1, len(tasks)), figsize=size, sharey=True, layout="constrained", squeeze=False
    )
    for plot, task in zip(axes[0], tasks, strict=False):
        for (label, way), colour in zip(WAYS, ("#2ca02c", "#ff7f0e", "#1f77b4"), strict=True):
            of = [entry for entry in entries.values() if (entry["task"], entry.get("way")) == (task, way)]
            points = sorted((100 * entry["ratio"], 100 * entry["num_right"] / entry["num_problems"]) for entry in of)
            if points:
                plot.plot(*zip(*points, strict=True), marker="o", label=label, color=colour)
        plot.set(title=f"tiny-{task}", xlabel="sharing ratio, %", ylim=(-3, 103))
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend(fontsize="small", loc="lower right")
    # A file that only changes when its content does.
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _options() -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of math,tool,code")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--anew", action="store_true", help="train fresh adapters, in place of ordinary ones that go on"
    )
    parser.add_argument("--share", type=float, help="part of the steps of training anew; 0.25, and with --anew 1")
    parser.add_argument(
        "--train-only", action="store_true", help="train; another call judges, and trains nothing again"
    )
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per measurement")
    parser.add_argument("--ratios", default=",".join(map(str, RATIOS)))
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-accuracy" / NAME)
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    share = given.share or (1.0 if given.anew else 0.25)
    return Options(
        tasks=tuple(given.tasks.split(",")),
        seed=given.seed,
        way="anew" if given.anew else "back",
        train_only=given.train_only,
        num_conversations={task: round(share * num) for task, num in FULL.items()},
        num_problems=given.problems,
        ratios=tuple(float(ratio) for ratio in given.ratios.split(",")),
        work=given.work.resolve(),
        out=given.out.resolve(),
    )


if __name__ == "__main__":
    main()
