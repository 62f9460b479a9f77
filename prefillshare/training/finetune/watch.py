"""What a run shows and keeps of its progress: the bar or lines, log.jsonl, TensorBoard."""

import json
import math
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prefillshare.errors import TrainingError
from prefillshare.training.finetune.output import disk_errors
from prefillshare.training.progress import Report, Reporter

if TYPE_CHECKING:
    from prefillshare.training.finetune.trainer import CacheConditionedTrainer


class Watch(TrainerCallback):
    """Turns the Trainer's log into reports; only the main process has one."""

    def __init__(self, name: str, trainer: "CacheConditionedTrainer", log: Path, reporter: Reporter) -> None:
        self._name, self._trainer, self._log, self._reporter = name, trainer, log, reporter
        self._started = self._last = time.monotonic()
        self._first_step = self._num_tokens = 0
        self._board: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with self._disk_errors():
            # A killed run may have logged steps after its last checkpoint; they are done again, and logged again.
            _keep_lines(self._log, state.global_step)
            self._board = SummaryWriter(str(self._log.parent / "tensorboard"), purge_step=state.global_step + 1)
        self._started = self._last = time.monotonic()
        self._first_step = state.global_step

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs:
            return
        _check_finite(logs["loss"], state.global_step)
        report = self._report(state, logs)
        with self._disk_errors():
            with self._log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(report.as_dict()) + "\n")
            for key in ("loss", "learning_rate", "gradient_norm", "tokens_per_s"):
                self._board.add_scalar(f"train/{key}", getattr(report, key), report.step)
        self._reporter.show(report)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        with self._disk_errors():
            self._board.close()

    def _disk_errors(self) -> AbstractContextManager[None]:
        return disk_errors("the log", self._log.parent, "go on with --resume")

    def _report(self, state: TrainerState, logs: dict[str, float]) -> Report:
        now, step = time.monotonic(), state.global_step
        num_tokens, since = self._trainer.num_tokens, self._num_tokens
        per_step = (now - self._started) / max(1, step - self._first_step)
        report = Report(
            name=self._name,
            step=step,
            num_steps=state.max_steps,
            loss=logs["loss"],
            learning_rate=logs["learning_rate"],
            gradient_norm=logs.get("grad_norm", 0.0),
            tokens_per_s=(num_tokens - since) / max(1e-9, now - self._last),
            remaining_s=per_step * (state.max_steps - step),
        )
        self._last, self._num_tokens = now, num_tokens
        return report


def _check_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"the loss is {loss} at step {step}: lower learning_rate or raise warmup_ratio, and start again"
        )


def _keep_lines(log: Path, last_step: int) -> None:
    """Effects: removes lines of later steps, and a last line that was cut off."""
    if not log.exists():
        return
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    kept = [line for line in lines if json.loads(line)["step"] <= last_step]
    partial = log.with_name(f"partial-{log.name}")
    partial.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    partial.rename(log)
