"""One run of `prefillshare train`, from its file to the finished module.

Killed at any moment, the same call with --resume goes on: data is tokenised once, checkpoints are whole or absent, and
the order of examples is a function of the seed and the step.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.config.training import Training
from prefillshare.modules.targets import check_targets
from prefillshare.training.data.prepare import Prepared, prepare
from prefillshare.training.finetune.costs import cost_figures, cost_lines
from prefillshare.training.finetune.estimate import Estimate, device_memory, estimate
from prefillshare.training.finetune.examples import Examples, read_examples, write_examples
from prefillshare.training.finetune.models import load_modules, load_tokenizer, locate_base
from prefillshare.training.finetune.output import RunDirectory, check_same_run, config_record, disk_errors
from prefillshare.training.finetune.publish import identity, publish
from prefillshare.training.finetune.start import check_start, start_record, with_shape_of_start
from prefillshare.training.progress import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dry run knows."""

    lines: tuple[str, ...]
    """The plan for people."""
    figures: dict[str, Any]
    """The same for scripts."""


class Finetune:
    """One run."""

    def __init__(self, training: Training, reporter: Reporter) -> None:
        self.training, self.reporter = with_shape_of_start(training), reporter
        self.directory = RunDirectory(training.output)

    def plan(self) -> Plan:
        """Read and tokenise the data and say what a run would need.

        Raises: TrainingError as a run would.
        """
        with self.directory.held(makes=False):
            self.directory.check(resume=False)
        base = self._base()
        prepared = prepare(self.training, load_tokenizer(base))
        return _plan(self.training, base, prepared)

    def run(self, *, resume: bool) -> Path:
        """Train to the end and return the directory of the module.

        Effects: writes into the output directory.
        Raises: TrainingError when it cannot start, go on, or write.
        """
        import torch
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        base, is_main = self._base(), state.is_main_process
        with self.directory.held(makes=not resume) if is_main else nullcontext():
            if is_main:
                self._start(base, resume=resume)
            state.wait_for_everyone()
            record = self.directory.read_record()
            self._train(base, record, is_main=is_main)
            state.wait_for_everyone()
        return self.directory.output

    def what_is_kept(self) -> str | None:
        """Say what an interrupted run has left to go on from, if it has begun at all."""
        if not self.directory.has_record:
            return None
        last = self.directory.last_checkpoint()
        kept = f"goes on from {last.name}" if last else "begins anew, since there is no checkpoint yet"
        return f"the same command with --resume {kept}"

    def _base(self) -> Path:
        base = locate_base(self.training.base)
        if self.training.kind == "lora":
            check_targets(base, self.training.targets)
        check_start(self.training, base)
        return base

    def _start(self, base: Path, *, resume: bool) -> None:
        """Tokenise the data of a new run, or check that an old one may go on."""
        self.directory.claim(resume=resume)
        now = {"config": config_record(self.training), "identity": identity(base), "start": start_record(self.training)}
        if resume:
            stored = self.directory.read_record()
            check_same_run(stored["config"], now["config"], self.directory.output)
            check_same_run(stored["identity"], now["identity"], self.directory.output)
            check_same_run(stored.get("start", {}), now["start"], self.directory.output)
            return
        self.reporter.say("reads and tokenises the data")
        prepared = prepare(self.training, load_tokenizer(base))
        for line in prepared.report.lines():
            self.reporter.say(line)
        with disk_errors("the tokenised data", self.directory.run, "start again"):
            self.directory.run.mkdir(parents=True, exist_ok=True)
            examples = write_examples(self.directory.run, "data", prepared.training)
            if prepared.held_out:
                write_examples(self.directory.run, "held-out", prepared.held_out)
            figures = {**_row_figures(prepared), "sha256": examples.shard.sha256()}
            self.directory.write_record({**now, "data": figures})

    def _train(self, base: Path, record: dict[str, Any], *, is_main: bool) -> None:
        from prefillshare.training.finetune.interruption import Interruption
        from prefillshare.training.finetune.trainer import CacheConditionedTrainer
        from prefillshare.training.finetune.watch import Watch

        examples = read_examples(self.directory.run, "data")
        modules = load_modules(self.training, base)
        trainer = CacheConditionedTrainer(modules, examples, self.training, self.directory)
        if is_main:
            trainer.add_callback(Watch(self.training.name, trainer, self.directory.log, self.reporter))
        checkpoint = self.directory.last_checkpoint()
        if checkpoint is None and not trainer.is_fsdp_enabled:  # a sharded model is on its devices only later
            self._measure(trainer, "before", is_main=is_main)
        if checkpoint and is_main:
            self.reporter.say(f"goes on from {checkpoint.name}")
        interruption = Interruption()
        trainer.add_callback(interruption)
        with interruption.watched() if trainer.args.world_size == 1 else nullcontext():
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        record["held_out_loss"] = self._measure(trainer, "after", is_main=is_main)
        trainer.save_module(self.directory.staging)
        if is_main:
            with disk_errors("the module", self.directory.output, "run it again with --resume"):
                publish(self.directory.staging, self.directory.output, base, self.training, record)

    def _measure(self, trainer: Any, when: str, *, is_main: bool) -> float | None:
        held_out = self.training.evaluation
        if not held_out.rows:
            return None
        examples = read_examples(self.directory.run, "held-out")
        loss: float = trainer.held_out_loss(list(examples), held_out.sharing_ratio)
        if is_main:
            self.reporter.say(f"held-out loss {when} training {loss:.4f} ({held_out.rows} rows, {self._shared_part()})")
        return loss

    def _shared_part(self) -> str:
        """What of the KV is the base's in the measurement."""
        if self.training.objective == "icarus":
            return "all KV the base's"
        return f"sharing {self.training.evaluation.sharing_ratio:.0%}"


def _plan(training: Training, base: Path, prepared: Prepared) -> Plan:
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as scratch:
        examples = write_examples(Path(scratch), "data", prepared.training)
        needed = estimate(training, base, examples)
    costs = cost_figures(training, examples)
    lines = (*prepared.report.lines(), *_token_lines(examples), *cost_lines(training, costs), *needed.lines())
    figures = {**_row_figures(prepared), **_token_figures(examples), **costs, **_estimate_figures(needed)}
    return Plan(lines=lines, figures=figures)


def _row_figures(prepared: Prepared) -> dict[str, Any]:
    report = prepared.report
    return {
        "origin": report.origin,
        "num_rows": report.num_rows,
        "num_used": report.num_used,
        "left_out": dict(report.left_out),
        "num_held_out": len(prepared.held_out),
    }


def _token_figures(examples: Examples) -> dict[str, int]:
    shard = examples.shard
    lengths = shard.starts[1:] - shard.starts[:-1]
    num_targets = int((shard.weights > 0).sum())
    return {
        "num_examples": len(examples),
        "num_tokens": len(shard.tokens),
        "num_target_tokens": num_targets,
        "num_prompt_tokens": len(shard.tokens) - num_targets,
        "longest": int(lengths.max()),
    }


def _token_lines(examples: Examples) -> list[str]:
    figures = _token_figures(examples)
    per_answer = figures["num_prompt_tokens"] / figures["num_target_tokens"]
    return [
        f"tokens    {figures['num_tokens']:,} in {figures['num_examples']:,} examples, longest {figures['longest']:,}",
        f"  prompt     {figures['num_prompt_tokens']:,}",
        f"  answer     {figures['num_target_tokens']:,} (1 for {per_answer:.1f} of prompt)",
    ]


def _estimate_figures(needed: Estimate) -> dict[str, int]:
    return {
        "num_steps": needed.num_steps,
        "num_parameters": needed.num_parameters,
        "num_trained": needed.num_trained,
        "memory_bytes": needed.total_bytes,
        "activation_bytes": needed.activation_bytes,
        "device_bytes": device_memory()[1],
    }
