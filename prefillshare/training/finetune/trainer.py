"""transformers' Trainer with cache-conditioned loss, checkpoints that are whole or absent, and a log of its own.

Accelerate distributes it (`accelerate launch -m prefillshare train FILE`): data parallel, or FSDP by the launcher's
settings, which reach the Trainer through the environment.
"""

import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from prefillshare.config.training import Training
from prefillshare.training.distillation import distilled_loss
from prefillshare.training.finetune.examples import Collator, Examples, SeededOrder
from prefillshare.training.finetune.feed import make_feed, split_layouts
from prefillshare.training.finetune.models import Modules
from prefillshare.training.finetune.output import RunDirectory, disk_errors
from prefillshare.training.layout import Documents, Layout
from prefillshare.training.objective import layout_loss


def arguments_of(training: Training, directory: RunDirectory) -> TrainingArguments:
    """A training file in the Trainer's words."""
    optimizer, batch, run = training.optimizer, training.batch, training.run
    arguments = TrainingArguments(
        output_dir=str(directory.run),
        seed=training.seed,
        data_seed=training.seed,
        use_cpu=not torch.cuda.is_available(),
        bf16=run.dtype == "bf16",
        per_device_train_batch_size=batch.size,
        gradient_accumulation_steps=batch.accumulation,
        gradient_checkpointing=run.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        learning_rate=optimizer.learning_rate,
        lr_scheduler_type={"constant": "constant_with_warmup"}.get(optimizer.schedule, optimizer.schedule),
        warmup_steps=optimizer.warmup_ratio,
        weight_decay=optimizer.weight_decay,
        max_grad_norm=optimizer.clip_norm,
        adam_beta1=optimizer.beta1,
        adam_beta2=optimizer.beta2,
        num_train_epochs=optimizer.epochs,
        max_steps=optimizer.max_steps or -1,
        logging_steps=run.log_steps,
        logging_nan_inf_filter=False,
        save_steps=run.save_steps,
        save_total_limit=None,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
    )
    # In one process the Trainer would spread a batch over all GPUs, which cuts layouts apart: one process, one GPU.
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1
    return arguments


class CacheConditionedTrainer(Trainer):
    """Trains a decode module over the KV of a frozen prefill module."""

    def __init__(self, modules: Modules, examples: Examples, training: Training, directory: RunDirectory) -> None:
        feed: Any = make_feed(training, examples)
        super().__init__(
            model=modules.decode,
            args=arguments_of(training, directory),
            data_collator=feed.collate,
            train_dataset=feed.examples,
        )
        self._order: SeededOrder = feed.order
        self.remove_callback(PrinterCallback)
        self.add_callback(_EpochOrder(self._order))
        # The Trainer counts target tokens over accumulation and processes, in labels that are aligned already.
        self.model_accepts_loss_kwargs, self._loss_shifts_labels = True, False
        self._training, self._directory = training, directory
        # Whole on every device, also where the decode module is sharded.
        self._prefill = None if modules.prefill is None else modules.prefill.to(self.args.device)
        self.num_tokens = 0
        """Tokens seen by all processes since the start of this process."""

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Sum of the token losses over all target tokens of the step, whichever pass and process they are in."""
        layout, own = split_layouts(inputs)
        self.num_tokens += layout.num_tokens * self.accelerator.num_processes
        total = self._total_loss(model, layout, own)
        assert num_items_in_batch is not None
        # Data parallelism averages gradients over processes, and the sum is wanted.
        return total / num_items_in_batch * self.accelerator.num_processes

    def _total_loss(self, model: nn.Module, layout: Layout, own: Layout | None) -> Tensor:
        wanted = self._training.distillation
        if own is None or wanted is None:
            return layout_loss(model, layout, prefill_model=self._prefill)
        return distilled_loss(model, layout, own, wanted, prefill_model=self._prefill)

    @torch.no_grad()
    def held_out_loss(self, examples: Sequence[Documents], sharing_ratio: float) -> float:
        """Mean loss over held-out examples, with that part of each prompt taken from the base.

        An ordinary module is measured as it would be served, over the base's KV, too.
        """
        objective = "icarus" if self._training.objective == "icarus" else "cache-conditioned"
        collate = Collator(objective=objective, packed=True, sharing_ratio=sharing_ratio)
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        total, weight = 0.0, 0.0
        for example in examples:
            inputs = self._prepare_inputs(collate([example]))
            with self._autocast():
                loss = layout_loss(model, Layout(**inputs), prefill_model=self._prefill)
            total, weight = total + float(loss), weight + float(inputs["weights"].sum())
        model.train(was_training)
        return total / weight

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's formula knows nothing of two passes."""
        return 0

    def save_module(self, directory: Path) -> None:
        """Write the finished module's weights in the base's dtype (an adapter: as trained).

        Effects: on the main process, files appear in `directory`.
        """
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        elif self._training.kind == "full":
            self.model.to(_stored_dtype(self.model))
        with disk_errors("the module", directory, "run it again with --resume"):
            self.save_model(str(directory))

    def _autocast(self) -> Any:
        return self.accelerator.autocast() if self.args.bf16 else nullcontext()

    def _get_train_sampler(self, train_dataset: Any = None) -> SeededOrder:
        return self._order

    def _get_output_dir(self, trial: Any) -> str:
        # The Trainer writes a checkpoint file by file; it gets its name when it is whole.
        return str(self._directory.staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        last = self._directory.last_checkpoint()
        kept = f"go on from {last.name} with --resume" if last else "start again with --resume"
        name = f"checkpoint-{self.state.global_step}"
        try:
            with disk_errors(f"checkpoint {self.state.global_step}", self._directory.run, kept):
                super()._save_checkpoint(model, trial)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    (self._directory.staging / name).rename(self._directory.run / name)
        finally:
            if self.args.should_save:
                shutil.rmtree(self._directory.staging, ignore_errors=True)
        if self.args.should_save:
            self._directory.drop_old_checkpoints(self._training.run.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        model: Any = self.accelerator.unwrap_model(self.model)
        # Of the adapter that is learned from, its own directory is the only copy.
        is_lora = self._training.kind == "lora"
        extra = {"save_embedding_layers": False, "selected_adapters": ["default"]} if is_lora else {}
        model.save_pretrained(output_dir, state_dict=state_dict, **extra)


class _EpochOrder(TrainerCallback):
    """Tells the order of examples which epoch begins; Accelerate does not reach it where a run goes on in an epoch."""

    def __init__(self, order: SeededOrder) -> None:
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._order.set_epoch(int(state.epoch or 0))


def _stored_dtype(model: Any) -> torch.dtype:
    """The dtype that the base is stored in."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(model.config._name_or_path).dtype or torch.float32
