"""Trains one module by the trainer of `prefillshare train`."""

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.accuracy.plan import ADAPTERS, LOG_STEPS, Recipe, Run
from prefillshare.config.training import (
    BaseModel,
    Batch,
    Columns,
    Data,
    Lora,
    Optimizer,
    Training,
)
from prefillshare.config.training import Run as RunSettings
from prefillshare.tiny.chats import write_conversations
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.progress import Reporter

SAVE_STEPS = 100
OBJECTIVES: dict[str, Literal["cache-conditioned", "icarus", "full-ft"]] = {
    "full-ft": "full-ft",
    "full": "cache-conditioned",
    "lora": "cache-conditioned",
    "icarus": "icarus",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a training leaves beside the weights."""

    loss: float
    """Of the last steps."""
    seconds: float
    """CPU time; of the last call only, when the run was killed and went on."""


def train(recipe: Recipe, run: Run, base: Path, work: Path, reporter: Reporter) -> Trained:
    """Train, or go on where a killed run stopped.

    Effects: writes `work/<name>` and the data beside it.
    """
    data = work / f"{run.task}-{run.seed}.jsonl"
    if not data.exists():
        write_conversations(data, run.task, run.seed, recipe.num_conversations[run.task])
    output = work / run.name
    training = training_of(recipe, run, base, data, output)
    begun = (output / "run" / "run.json").exists()
    if output.exists() and not begun:
        shutil.rmtree(output)
    started = time.process_time()
    Finetune(training, reporter).run(resume=begun)
    loss = json.loads((output / "run" / "log.jsonl").read_text().splitlines()[-1])["loss"]
    shutil.rmtree(output / "run")
    return Trained(loss=loss, seconds=round(time.process_time() - started, 1))


def training_of(recipe: Recipe, run: Run, base: Path, data: Path, output: Path) -> Training:
    """The recipe of a training as a training file would say it."""
    is_lora = run.trained in ADAPTERS
    return Training(
        name=run.name,
        output=output,
        kind="lora" if is_lora else "full",
        objective=OBJECTIVES[run.trained],
        seed=run.seed,
        base=BaseModel(path=base),
        data=Data(file=data, columns=Columns(messages="messages")),
        batch=Batch(max_tokens=2048, size=recipe.batch, accumulation=1, packed=False),
        optimizer=Optimizer(
            learning_rate=recipe.lora_rate if is_lora else recipe.full_rate,
            epochs=recipe.epochs,
            warmup_ratio=0.05,
            beta2=0.98,
        ),
        lora=Lora(rank=recipe.rank, alpha=2 * recipe.rank) if is_lora else None,
        run=RunSettings(dtype="fp32", save_steps=SAVE_STEPS, keep_checkpoints=1, log_steps=LOG_STEPS),
    )
