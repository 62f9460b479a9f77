"""What further measurements on the tiny family share: a training, a judgement, results that are kept as they come."""

import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.accuracy.machine import describe_machine
from prefillshare.config.training import BaseModel, Batch, Columns, Data, Optimizer, Run, Training
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.statistics import wilson_interval
from prefillshare.evaluation.suites.tiny import SUITE_SEED, load_suite
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.chats import write_conversations
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.progress import Reporter

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models" / "tiny"
RESULTS = ROOT / "docs" / "results"
BACK_RATE = 3e-3
"""Peak learning rate of adapters that go on."""
FULL: dict[TaskName, int] = {"math": 2000, "tool": 3000, "code": 2500}
"""Conversations of training anew, in steps of `BATCH`."""
NUM_PROBLEMS = 500
"""Held-out problems of a measurement."""
RATE, WARMUP, BETA2, BATCH = 4e-3, 0.05, 0.98, 2
"""Of the accuracy benchmark's adapters: peak learning rate, warm-up, decay of the squared gradient, conversations."""


class Results:
    """Entries by name in one JSON file, whole after every one."""

    def __init__(self, file: Path) -> None:
        """Raises: EvaluationError when the file cannot be read."""
        self._file, self.entries = file, dict[str, dict[str, Any]]()
        self.machine = describe_machine()
        if file.exists():
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                self.machine, self.entries = content["machine"], content["entries"]
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise EvaluationError(f"{file} cannot be read ({error}): delete it, or give another --out") from None

    def put(self, name: str, entry: dict[str, Any]) -> None:
        """Effects: writes the file."""
        self.entries[name], self.machine = entry, describe_machine()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        partial = self._file.with_name(f"partial-{self._file.name}")
        content = {"machine": self.machine, "entries": self.entries}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.rename(self._file)


def conversations(work: Path, task: TaskName, seed: int, num: int) -> Path:
    """A file with tuning conversations; fewer of a seed are the first of more.

    Effects: writes it, if it is not there.
    """
    file = work / f"{task}-{seed}-{num}.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        write_conversations(file, task, seed, num)
    return file


def tiny_training(name: str, data: Path, work: Path, seed: int, **settings: Any) -> Training:
    """A run on the tiny family by the accuracy benchmark's recipe, but for `settings`."""
    chosen = {
        "kind": "lora",
        "optimizer": Optimizer(learning_rate=RATE, warmup_ratio=WARMUP, beta2=BETA2),
        "batch": Batch(max_tokens=2048, size=BATCH, accumulation=1, packed=False),
        **settings,
    }
    return Training(
        name=name,
        output=work / name,
        seed=seed,
        base=BaseModel(path=TINY / "base"),
        data=Data(file=data, columns=Columns(messages="messages")),
        run=Run(dtype="fp32", save_steps=50, keep_checkpoints=1, log_steps=5),
        **chosen,
    )


def finish(training: Training, reporter: Reporter) -> None:
    """Train, or go on where a killed run stopped.

    Effects: writes the run's output.
    """
    output = training.output
    if (output / "prefillshare.json").exists():
        return
    begun = (output / "run" / "run.json").exists()
    if output.exists() and not begun:
        shutil.rmtree(output)
    Finetune(training, reporter).run(resume=begun)


def judge(task: TaskName, module: Path, ratio: float, num_problems: int, seed: int = SUITE_SEED) -> dict[str, Any]:
    """How many held-out problems a module solves at a sharing ratio."""
    suite = load_suite(f"tiny-{task}", num_problems, seed)
    answers = TinyAnswers(TINY, module.resolve(), sharing_ratio=ratio)
    given = answers.answer([list(question.messages) for question in suite.questions])
    num_right = score_answers(suite, str(module), given).num_right
    return {
        "task": task,
        "ratio": ratio,
        "num_right": num_right,
        "num_problems": num_problems,
        "interval_95": wilson_interval(num_right, num_problems),
    }


def percent(entry: dict[str, Any] | None) -> str:
    """Accuracy of an entry in percent, with the number of problems if it is not the usual one."""
    if entry is None:
        return "not yet"
    few = "" if entry["num_problems"] == NUM_PROBLEMS else f" (of {entry['num_problems']})"
    return f"{100 * entry['num_right'] / entry['num_problems']:.1f}{few}"


def describe(machine: dict[str, Any]) -> str:
    """The machine in one line."""
    return (
        f"as of {machine['date']}: {machine['architecture']}, {machine['num_cores']} cores, no GPU, threads: "
        f"{machine['num_threads']}, Python {machine['python']}, PyTorch {machine['torch']}"
    )
