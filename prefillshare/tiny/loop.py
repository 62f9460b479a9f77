"""The training loop of the family: one loss per step, checkpoints, a log; it continues where a killed run stopped.

The loop knows nothing about models. It gets parameters and a function from the step to a loss, so it serves
pretraining, cache-conditioned and ordinary fine-tuning alike.

Why it stands beside `training.finetune`, which trains everybody else's modules: the family's recipe needs what a
transformers Trainer has no place for. Pretraining uses two optimizers at a time (`optimizer`); a step is as many
neighbouring documents as fill `batch_tokens`, so that the corpus's curriculum survives, where a Trainer draws a fixed
number of examples in random order; weights are bfloat16 with float32 masters, without autocast, which two cores
would pay for in every layer. Over a Trainer all of this would be overridden, and the shipped weights could no longer
be made again. The modules alone could be trained by `prefillshare train`, as `benchmarks/accuracy` does; the base
would still need this loop.
"""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from prefillshare.tiny.optimizer import MasterOptimizer, OptimizerName, learning_rate_at
from prefillshare.training.progress import Report, Reporter

CHECKPOINT_NAME = "checkpoint.pt"
LOG_NAME = "log.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopConfig:
    """How one run trains."""

    num_steps: int
    """Steps of the whole run."""
    optimizer: OptimizerName
    """Which optimizer changes the matrices."""
    learning_rate: float
    """Peak learning rate."""
    warmup_steps: int
    """Steps of linear warm-up."""
    decay_fraction: float
    """Last part of the run, in which the rate falls to zero."""
    weight_decay: float
    """Decoupled weight decay of matrices."""
    clip_norm: float
    """Largest norm of the gradient."""
    checkpoint_steps: int
    """Steps between two checkpoints."""
    log_steps: int = 10
    """Steps between two lines of the log."""


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Loss of one step."""

    loss: Tensor
    """Scalar to call backward on."""
    num_tokens: int
    """Tokens that the step looked at, context included, padding not."""


def run_loop(
    name: str,
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    step_loss: Callable[[int], StepLoss],
    config: LoopConfig,
    directory: Path,
    reporter: Reporter,
) -> None:
    """Train until `num_steps`, from the last checkpoint in `directory` if there is one.

    Effects: changes the parameters; writes checkpoint.pt and log.jsonl under `directory`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    optimizer = MasterOptimizer(
        named_parameters, name=config.optimizer, weight_decay=config.weight_decay, clip_norm=config.clip_norm
    )
    first = _restore(optimizer, directory)
    meter = _Meter(first, config.num_steps)
    for step in range(first, config.num_steps):
        out = step_loss(step)
        out.loss.backward()
        rate = learning_rate_at(
            step, config.num_steps, config.learning_rate, config.warmup_steps, config.decay_fraction
        )
        norm = optimizer.step(rate)
        meter.add(out)
        done = step + 1
        if done % config.log_steps == 0 or done == config.num_steps:
            _log(directory, reporter, meter.report(name, done, rate, norm))
        if done % config.checkpoint_steps == 0 or done == config.num_steps:
            _store(optimizer, done, directory)


class _Meter:
    """Averages between two log lines."""

    def __init__(self, first: int, num_steps: int) -> None:
        self._first, self._num_steps = first, num_steps
        self._started = self._last = time.monotonic()
        self._losses: list[float] = []
        self._num_tokens = 0

    def add(self, out: StepLoss) -> None:
        self._losses.append(float(out.loss.detach()))
        self._num_tokens += out.num_tokens

    def report(self, name: str, done: int, rate: float, norm: float) -> Report:
        now = time.monotonic()
        remaining = (now - self._started) / (done - self._first) * (self._num_steps - done)
        report = Report(
            name=name,
            step=done,
            num_steps=self._num_steps,
            loss=sum(self._losses) / len(self._losses),
            learning_rate=rate,
            gradient_norm=norm,
            tokens_per_s=self._num_tokens / max(1e-9, now - self._last),
            remaining_s=remaining,
        )
        self._last, self._losses, self._num_tokens = now, [], 0
        return report


def _store(optimizer: MasterOptimizer, done: int, directory: Path) -> None:
    partial = directory / f"partial-{CHECKPOINT_NAME}"
    torch.save({"step": done, "optimizer": optimizer.state_dict()}, partial)
    partial.rename(directory / CHECKPOINT_NAME)


def _restore(optimizer: MasterOptimizer, directory: Path) -> int:
    path = directory / CHECKPOINT_NAME
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def _log(directory: Path, reporter: Reporter, report: Report) -> None:
    with (directory / LOG_NAME).open("a") as log:
        log.write(json.dumps(report.as_dict()) + "\n")
    reporter.show(report)
