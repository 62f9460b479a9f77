"""One run of `prefillshare train --router`, from its file to the finished classifier.

The prompts of a conversation stay together: all of them are fitted on, or none.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from prefillshare.config.router_training import RouterTraining
from prefillshare.errors import TrainingError
from prefillshare.modules.fingerprint import geometry, prefill_fingerprint
from prefillshare.training.data.prepare import RowReport
from prefillshare.training.data.prompts import prepare_prompts
from prefillshare.training.finetune.models import load_tokenizer, locate_base
from prefillshare.training.finetune.output import disk_errors
from prefillshare.training.finetune.run import Plan
from prefillshare.training.progress import Reporter

if TYPE_CHECKING:
    from prefillshare.modules.heads import Head
    from prefillshare.training.router.trial import Trial

_MIN_CONVERSATIONS = 10
"""Of a module, so that some can be held out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Examples:
    """Prompts of one part of the data, all modules together."""

    prompts: list[list[int]]
    """Token ids of each prompt."""
    labels: list[int]
    """Number of the module that each is for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The data of a run."""

    fitted: Examples
    """What the head is fitted on."""
    calibration: Examples
    """What says how sure it may be."""
    trial: Examples
    """What says how often it is right."""
    reports: dict[str, RowReport]
    """What became of the rows, by module."""

    @property
    def all(self) -> tuple[Examples, Examples, Examples]:
        """The three parts."""
        return self.fitted, self.calibration, self.trial

    def sha256(self) -> str:
        """Return a hash of prompts and labels."""
        content = [[part.prompts, part.labels] for part in self.all]
        return f"sha256:{hashlib.sha256(json.dumps(content).encode()).hexdigest()}"

    def lines(self) -> list[str]:
        """Return what became of the rows, for people."""
        out = [f"{name}: {line}" for name, report in self.reports.items() for line in report.lines()]
        counts = [len(part.prompts) for part in self.all]
        tokens = sum(len(prompt) for part in self.all for prompt in part.prompts)
        return [
            *out,
            f"prompts   {counts[0]} to fit on, {counts[1]} for how sure it may be, {counts[2]} to try it on",
            f"tokens    {tokens} that the prefill module computes once",
        ]


class RouterRun:
    """One run."""

    def __init__(self, training: RouterTraining, reporter: Reporter) -> None:
        self.training, self.reporter = training, reporter

    def plan(self) -> Plan:
        """Read and render the data and say what a run would do.

        Raises: TrainingError as a run would.
        """
        base = self._start()
        parts = _read_parts(self.training, base)
        counts = {name: len(getattr(parts, name).prompts) for name in ("fitted", "calibration", "trial")}
        rows = {name: {"rows": report.num_rows, "used": report.num_used} for name, report in parts.reports.items()}
        figures = {"modules": rows, "prompts": counts, "data_sha256": parts.sha256()}
        return Plan(lines=tuple(parts.lines()), figures=figures)

    def run(self) -> "tuple[Path, Trial]":
        """Fit the head, try it, and return its directory and how it did.

        Effects: writes into the output directory.
        Raises: TrainingError.
        """
        from prefillshare.modules.heads import write_head

        base, output = self._start(), self.training.output
        # Before all the work: what cannot be written then cannot be written in the end.
        with disk_errors("the classifier", output, "run it again"):
            output.mkdir(parents=True, exist_ok=True)
        self.reporter.say("reads and renders the data")
        parts = _read_parts(self.training, base)
        for line in parts.lines():
            self.reporter.say(line)
        head, trial = _fit(self.training, base, parts)
        for line in trial.lines():
            self.reporter.say(line)
        with disk_errors("the classifier", output, "run it again"):
            write_head(output, head)
        return output, trial

    def _start(self) -> Path:
        output = self.training.output
        if output.exists() and (not output.is_dir() or any(output.iterdir())):
            raise TrainingError(f"output {output} exists and is not empty: choose another output")
        return locate_base(self.training.base)


def _read_parts(training: RouterTraining, base: Path) -> Parts:
    tokenizer = load_tokenizer(base)
    parts = [Examples(prompts=[], labels=[]) for _ in range(3)]
    reports = {}
    for number, module in enumerate(training.modules):
        conversations, report = prepare_prompts(module.data, tokenizer, training.passes.max_tokens)
        reports[module.name] = report
        if len(conversations) < _MIN_CONVERSATIONS:
            raise TrainingError(
                f"module {module.name!r} has {len(conversations)} usable conversations in {report.origin}: give it "
                f"{_MIN_CONVERSATIONS} at least"
            )
        for part, chosen in zip(parts, _split(training, module.name, conversations), strict=True):
            prompts = [prompt for conversation in chosen for prompt in conversation]
            part.prompts.extend(prompts)
            part.labels.extend([number] * len(prompts))
    fitted, calibration, trial = parts
    return Parts(fitted=fitted, calibration=calibration, trial=trial, reports=reports)


def _split(
    training: RouterTraining, name: str, conversations: Sequence[list[list[int]]]
) -> tuple[list[list[list[int]]], ...]:
    """Return the conversations to fit on, to calibrate with and to try."""
    order = list(range(len(conversations)))
    Random(f"router-{training.seed}-{name}").shuffle(order)
    num_held_out = min(max(2, round(training.head.held_out * len(order))), len(order) - 1)
    middle, start = num_held_out // 2, num_held_out
    parts = (order[start:], order[:middle], order[middle:start])
    return tuple([conversations[number] for number in sorted(part)] for part in parts)


def _fit(training: RouterTraining, base: Path, parts: Parts) -> "tuple[Head, Trial]":
    import numpy as np

    from prefillshare.modules.heads import Head, HeadManifest
    from prefillshare.training.router.solve import fit_head, fit_temperature
    from prefillshare.training.router.states import last_states
    from prefillshare.training.router.trial import try_head

    passes, names = training.passes, tuple(module.name for module in training.modules)
    prompts = [prompt for part in parts.all for prompt in part.prompts]
    states = last_states(base, prompts, size_tokens=passes.size_tokens, dtype=passes.dtype)
    ends = np.cumsum([len(part.prompts) for part in parts.all])
    fitted, calibration, trial = np.split(states, ends[:-1])
    labels = [np.array(part.labels) for part in parts.all]
    fit = fit_head(fitted, labels[0], len(names), training.head.weight_decay)
    temperature = fit_temperature(fit, calibration, labels[1])
    fit = fit.cooled(temperature)
    found = try_head(fit, trial, labels[2], names)
    manifest = HeadManifest(
        name=training.name,
        labels=names,
        hidden_size=geometry(base)["hidden_size"],
        prefill_fingerprint=prefill_fingerprint(base),
        data_sha256=parts.sha256(),
        seed=training.seed,
        training=json.loads(json.dumps(asdict(training), default=_as_text)),
        report={"temperature": temperature, **found.as_dict()},
    )
    weight, bias = fit.weight.astype(np.float32), fit.bias.astype(np.float32)
    return Head(manifest=manifest, weight=np.ascontiguousarray(weight), bias=bias), found


def _as_text(value: object) -> str:
    return value.name if isinstance(value, Path) else str(value)
