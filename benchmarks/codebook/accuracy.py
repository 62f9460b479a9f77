"""Accuracy of 2-bit modules beside full weights, k-means alone and rounding: `python -m benchmarks.codebook.accuracy`.

The tiny family's three modules, quantised with several seeds (of k-means, of the order of rows, and of the rows
themselves), and 500 held-out problems each, decoded over the base's KV by the reference computation. Every module and
every measurement is kept: a killed call goes on where it stopped. Tables are written after each.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.codebook.rounded import write_rounded
from prefillshare.config.quantisation import Quantisation, Report, SourceModule, Tuning
from prefillshare.config.training import BaseModel, Columns, Data
from prefillshare.errors import PrefillShareError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.quantize.run import Quantise
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.chats import write_conversations
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.training.progress import Reporter, make_reporter

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
HELD_OUT_ROWS = 16
MOST_BELOW = 1.0
"""Points that a 2-bit module may be below full weights."""
WAYS = {
    "module": "2-bit codebooks, tuned",
    "k-means": "2-bit codebooks, k-means alone",
    "full": "full weights",
    "rounded": "2 bits, rounded to nearest in groups of 128",
}
SEEDLESS = ("full", "rounded")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One module that is measured."""

    way: str
    """One of WAYS."""
    task: TaskName
    """Whose problems are asked."""
    seed: int
    """Of the quantisation; the first one for what has none."""

    @property
    def name(self) -> str:
        return f"{self.task}-{self.way}" if self.way in SEEDLESS else f"{self.task}-{self.way}-{self.seed}"


def cells(tasks: list[TaskName], seeds: list[int]) -> Iterator[Cell]:
    """All cells, a seed complete before the next one begins."""
    for seed in seeds:
        for way in WAYS:
            yield from (Cell(way=way, task=task, seed=seed) for task in tasks)


def directory_of(cell: Cell, work: Path, reporter: Reporter) -> Path:
    """The module of a cell, made when it is not there."""
    if cell.way == "full":
        return TINY / cell.task
    if cell.way == "rounded":
        return write_rounded(TINY / "base", TINY / cell.task, work / f"{cell.task}-rounded")
    output = work / f"{cell.task}-{cell.seed}"
    if not (output / "prefillshare.json").exists():
        wanted = quantisation_of(cell, work, output)
        Quantise(wanted, reporter).run(resume=(output / "run" / "run.json").exists())
    return output if cell.way == "module" else output / "run" / "k-means"


def quantisation_of(cell: Cell, work: Path, output: Path) -> Quantisation:
    """A cell as a file for `prefillshare quantize` would say it: its defaults, one pass over the rows."""
    tuning, data = Tuning(), work / f"{cell.task}-{cell.seed}.jsonl"
    if not data.exists():
        write_conversations(data, cell.task, 1000 + cell.seed, tuning.steps * tuning.size + HELD_OUT_ROWS)
    return Quantisation(
        name=f"{cell.task}-2bit",
        output=output,
        seed=cell.seed,
        max_tokens=2048,
        base=BaseModel(path=TINY / "base"),
        module=SourceModule(path=TINY / cell.task),
        data=Data(file=data, columns=Columns(messages="messages")),
        report=Report(rows=HELD_OUT_ROWS),
    )


def measure(cell: Cell, module: Path, num_problems: int) -> dict[str, int]:
    """How many problems a module solves."""
    suite = load_suite(f"tiny-{cell.task}", num_problems)
    given = TinyAnswers(TINY, module.resolve()).answer([list(question.messages) for question in suite.questions])
    return {"num_right": score_answers(suite, cell.name, given).num_right, "num_problems": num_problems}


def run(options: argparse.Namespace, reporter: Reporter) -> None:
    """Do what is left.

    Effects: writes the results and the table after each cell.
    """
    tasks, seeds = options.tasks.split(","), [int(seed) for seed in options.seeds.split(",")]
    options.work.mkdir(parents=True, exist_ok=True)
    file = options.out / "codebook-accuracy.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    for cell in cells(tasks, seeds):
        if cell.name in results:
            continue
        results[cell.name] = measure(cell, directory_of(cell, options.work, reporter), options.problems)
        partial = file.with_name(f"partial-{file.name}")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.rename(file)
        reporter.say(f"{cell.name}: {results[cell.name]['num_right']}/{results[cell.name]['num_problems']}")
    print(table(results))


def table(results: dict[str, dict[str, int]]) -> str:
    """The results so far, mean over seeds."""
    lines = [f"| right, % (seeds) | {' | '.join(f'tiny-{task}' for task in TASKS)} |", "|---" * (1 + len(TASKS)) + "|"]
    for way, label in WAYS.items():
        lines.append(f"| {label} | {' | '.join(_cell(points(results, task, way)) for task in TASKS)} |")
    return "\n".join([*lines, "", *_verdicts(results)])


def points(results: dict[str, dict[str, int]], task: TaskName, way: str) -> list[float]:
    """Percentages of one way, seed by seed."""
    names = [name for name in results if name == f"{task}-{way}" or name.startswith(f"{task}-{way}-")]
    return [100 * results[name]["num_right"] / results[name]["num_problems"] for name in names]


def _cell(found: list[float]) -> str:
    if not found:
        return "not yet"
    span = f", {min(found):.1f} to {max(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f} ({len(found)}{span})"


def _verdicts(results: dict[str, dict[str, int]]) -> Iterator[str]:
    for task in TASKS:
        full, tuned = points(results, task, "full"), points(results, task, "module")
        if full and tuned:
            below = round(full[0] - min(tuned), 6)
            verdict = "met" if below <= MOST_BELOW else "missed"
            yield f"tiny-{task}: the lowest seed is {below:.1f} points below full weights; goal {MOST_BELOW}: {verdict}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.codebook.accuracy", description=__doc__)
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of math,tool,code")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--problems", type=int, default=500, help="held-out problems per task")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench-accuracy" / "codebook", help="modules")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results", help="codebook-accuracy.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    try:
        with make_reporter() as reporter:
            run(options, reporter)
    except PrefillShareError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
