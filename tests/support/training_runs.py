"""Small training runs for tests: a training file over a random base or the tiny one, and reporters that interfere.

Run as a program, it trains a file and kills itself without warning: `python -m tests.support.training_runs FILE STEP`.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefillshare.config import load_training
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.progress import Report

NUM_STEPS = 6
"""Two epochs of 12 rows, 4 rows a step."""
SAVE_STEPS = 2


class Stopped(Exception):
    """Raised by a reporter to end a run in its middle."""


class Watcher:
    """Keeps what a run says and calls `at` with each report."""

    def __init__(self, at: Callable[[Report], None] = lambda report: None) -> None:
        self.said: list[str] = []
        self._at = at

    def say(self, text: str) -> None:
        self.said.append(text)

    def show(self, report: Report) -> None:
        self._at(report)


def stop_at(step: int) -> Watcher:
    """A watcher that ends the run when it reports this step."""

    def stop(report: Report) -> None:
        if report.step == step:
            raise Stopped

    return Watcher(stop)


def write_rows(file: Path, num_rows: int = 12) -> Path:
    """Sums as questions and answers, of different lengths, one JSON object per line."""
    rows = [
        {
            "question": f"What is {number} plus {3 * number}?" + " Say it." * (number % 5),
            "answer": f"{number} + {3 * number} = {4 * number}" + " #" * (number % 7),
        }
        for number in range(1, num_rows + 1)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def write_training(
    directory: Path,
    base: Path,
    *,
    kind: str = "lora",
    objective: str = "cache-conditioned",
    output: str = "out",
    top: Mapping[str, Any] | None = None,
    **tables: dict[str, Any],
) -> Path:
    """Write a training file, and its rows, into `directory`; `tables` adds or replaces keys of a table, `top` some
    that stand in none."""
    if not (directory / "rows.jsonl").exists():
        write_rows(directory / "rows.jsonl")
    content: dict[str, dict[str, Any]] = {
        "base": {"path": str(base)},
        "data": {"file": "rows.jsonl"},
        "data.columns": {"prompt": "question", "answer": "answer"},
        "batch": {"max_tokens": 256, "size": 1, "accumulation": 4},
        "optimizer": {"learning_rate": 0.002, "max_steps": NUM_STEPS, "warmup_ratio": 0.0},
        "run": {"dtype": "fp32", "log_steps": 1, "save_steps": SAVE_STEPS},
    }
    for name, keys in tables.items():
        content.setdefault(name, {}).update(keys)
    lines = [f'name = "sums"\noutput = "{output}"\nkind = "{kind}"\nobjective = "{objective}"\nseed = 7\n']
    lines += [f"{key} = {_toml(value)}" for key, value in (top or {}).items()]
    for name, keys in content.items():
        lines.append(f"[{name}]\n" + "".join(f"{key} = {_toml(value)}\n" for key, value in keys.items()))
    file = directory / f"{output}.toml"
    file.write_text("\n".join(lines))
    return file


def going_on(folder: Path, base: Path, start: Path, **tables: Any) -> Path:
    """A training file that goes on from the adapter `start`."""
    file = write_training(folder, base, top={"start": str(start)}, **tables)
    lines = [line for line in file.read_text().splitlines() if not line.startswith(("rank", "alpha", "targets"))]
    file.write_text("\n".join(line for line in lines if line != "[lora]") + "\n")
    return file


def train(file: Path, watcher: Watcher | None = None, *, resume: bool = False) -> Path:
    """Run a training file in this process; return the output directory."""
    return Finetune(load_training(file), watcher or Watcher()).run(resume=resume)


def losses(output: Path) -> list[tuple[int, float]]:
    """Step and loss of each line of a run's log."""
    lines = (output / "run" / "log.jsonl").read_text().splitlines()
    return [(entry["step"], entry["loss"]) for entry in map(json.loads, lines)]


def _toml(value: Any) -> str:
    return json.dumps(value)


def _train_and_die(file: str, step: str) -> None:
    def die(report: Report) -> None:
        if report.step == int(step):
            os.kill(os.getpid(), signal.SIGKILL)

    train(Path(file), Watcher(die))


if __name__ == "__main__":
    _train_and_die(*sys.argv[1:])
