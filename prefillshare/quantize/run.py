"""One run of `prefillshare quantize`, from its file to the finished module.

OUTPUT/                          the finished module; prefillshare.json comes last
OUTPUT/report.json               what was measured
OUTPUT/run/run.json              what the run started from
OUTPUT/run/data.npz, held-out.npz   its tokenised data
OUTPUT/run/moments.safetensors   how much each input counts
OUTPUT/run/k-means/              the module as k-means leaves it; beside it .k-means.quantizing until it is whole
OUTPUT/run/tuning.pt             where tuning of the whole module is
OUTPUT/run/layers/               or what tuning layer by layer has and needs (tune_layers)
OUTPUT/run/module/               the module that is to be put in place

Killed at any moment, the same call with --resume goes on: each of these is whole or not there, and the rows of a step
are a function of the seed and the step.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from prefillshare.config.quantisation import Quantisation
from prefillshare.modules.manifest import MANIFEST_NAME, ModuleManifest, write_manifest
from prefillshare.quantize.clusters import Clustering
from prefillshare.quantize.decode_module import load_trainable, map_full, map_model
from prefillshare.quantize.layers import Recipe, quantise_module, sizes_of
from prefillshare.quantize.measured import JUDGED, Measured, read_measured
from prefillshare.quantize.moments import input_moments
from prefillshare.quantize.opening import OpenModule, open_module
from prefillshare.quantize.plan import Plan, check_room, make_plan, size_figures
from prefillshare.quantize.source import WeightSource
from prefillshare.quantize.tune import Done, Tuner, held_out_loss, write_tuned
from prefillshare.quantize.tune_layers import LayerTuning, Show
from prefillshare.training.data.prepare import Prepared, Rest, prepare_data
from prefillshare.training.finetune.examples import Collator, Examples, SeededOrder, read_examples, write_examples
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.finetune.output import RunDirectory, check_same_run, disk_errors
from prefillshare.training.layout import Layout
from prefillshare.training.progress import Report, Reporter

REPORT_NAME = "report.json"
_FREE_KEYS = frozenset(
    {"output", "source", "base.path", "base.hub", "base.revision", "module.path", "data.file", "tuning.save_steps"}
)

_WHEN = {"full": "with full weights", "k-means": "after k-means", "module": "of the module"}

Judge = Callable[[Path, Path, ModuleManifest], dict[str, Any]]
"""From base, module and its manifest to how many problems of the suite it solves."""


class Quantise:
    """One run."""

    def __init__(self, wanted: Quantisation, reporter: Reporter, judge: Judge | None = None) -> None:
        """`judge` measures on the suite; without it none is."""
        self.wanted, self.reporter, self._judge = wanted, reporter, judge
        self.directory = RunDirectory(wanted.output)
        self._run = self.directory.run

    def plan(self) -> Plan:
        """Read and tokenise the data and say what a run would make and need.

        Raises: PrefillShareError as a run would.
        """
        with self.directory.held(makes=False):
            self.directory.check(resume=False)
        opened = open_module(self.wanted)
        return make_plan(opened, self.wanted, self._prepare(opened))

    def run(self, *, resume: bool) -> Path:
        """Quantise, tune and measure; return the directory of the module.

        Effects: writes into the output directory.
        Raises: PrefillShareError when it cannot start, go on, or write.
        """
        opened = open_module(self.wanted)
        with self.directory.held(makes=not resume):
            self._start(opened, resume=resume)
            self._make(opened)
        return self.directory.output

    def _make(self, opened: OpenModule) -> None:
        with disk_errors("the module", self.directory.output, "run it again with --resume"):
            measured = read_measured(self._run)
            clustered = self._cluster(opened)
            self._measure_loss(opened, "full", measured)
            self._measure_loss(opened, "k-means", measured, clustered)
            finished = self._tune(opened, clustered)
            self._measure_loss(opened, "module", measured, finished)
            self._measure(opened, {"k-means": clustered, "module": finished}, measured)
            self._publish(opened, finished, measured)

    def _prepare(self, opened: OpenModule) -> Prepared | None:
        if self.wanted.data is None or not self.wanted.needs_data:
            return None
        held_out = Rest(rows=self.wanted.report.rows, table="report")
        tokenizer = load_tokenizer(opened.base)
        return prepare_data(self.wanted.data, tokenizer, max_tokens=self.wanted.max_tokens, held_out=held_out)

    def _start(self, opened: OpenModule, *, resume: bool) -> None:
        """Tokenise the data of a new run, or check that an old one may go on."""
        self.directory.claim(resume=resume)
        config = json.loads(json.dumps(asdict(self.wanted), default=str))
        now = {"config": config, "module_sha256": opened.sha256}
        if resume:
            stored = self.directory.read_record()
            check_same_run({key: stored.get(key) for key in now}, now, self.directory.output, _FREE_KEYS)
            return
        prepared = self._prepare(opened)
        plan = make_plan(opened, self.wanted, prepared)
        check_room(plan, self.directory.output)
        for line in plan.lines:
            self.reporter.say(line)
        with disk_errors("the tokenised data", self._run, "start again"):
            self._run.mkdir(parents=True, exist_ok=True)
            data = self._write_data(prepared)
            # Another machine may have less memory: the way stays that of the start, or the module would be another.
            self.directory.write_record({**now, "tuned_by": plan.tuned_by, "data": data})

    def _write_data(self, prepared: Prepared | None) -> dict[str, Any] | None:
        if prepared is None:
            return None
        examples = write_examples(self._run, "data", prepared.training)
        if prepared.held_out:
            write_examples(self._run, "held-out", prepared.held_out)
        report = prepared.report
        figures = {"origin": report.origin, "num_rows": report.num_rows, "num_used": report.num_used}
        return {**figures, "sha256": examples.shard.sha256()}

    def _cluster(self, opened: OpenModule) -> Path:
        out = self._run / "k-means"
        if out.exists():
            return out
        moments = self._moments(opened)
        books, record = self.wanted.codebooks, self.directory.read_record()
        recipe = Recipe(
            shape=books.shape,
            clustering=Clustering(num_samples=books.samples, num_rounds=books.rounds, seed=self.wanted.seed),
            source=opened.sha256,
            data_sha256=record["data"]["sha256"] if moments else None,
        )
        manifest = replace(_of_full_weights(opened.manifest), training=recipe.as_dict())
        return quantise_module(
            opened.source, out, recipe, manifest, moments=moments, text_from=opened.base, say=self.reporter.say
        )

    def _moments(self, opened: OpenModule) -> dict[str, torch.Tensor] | None:
        if not self.wanted.moments.rows:
            return None
        file = self._run / "moments.safetensors"
        if not file.exists():
            examples = read_examples(self._run, "data")
            num_rows = min(self.wanted.moments.rows, len(examples))
            self.reporter.say(f"measures how much each input counts, on {num_rows} rows")
            layouts = _layouts(examples, self._steps(num_rows, size=1), packed=True)
            found = input_moments(map_full(opened.source), map_model(opened.base), opened.source, layouts)
            partial = file.with_suffix(".partial")
            save_file(found, partial)
            partial.rename(file)
        return load_file(file)

    def _tune(self, opened: OpenModule, clustered: Path) -> Path:
        """Return the directory of the module with its codebooks trained, or as k-means left it."""
        out = self._run / "module"
        if out.exists():
            return out
        if not self.wanted.tuning.steps:
            return _copy(clustered, out)
        if self.directory.read_record()["tuned_by"] == "layer":
            return self._tune_layers(opened, clustered, out)
        model = load_trainable(opened.source, clustered)
        self._train(model, map_model(opened.base))
        return write_tuned(model, clustered, out, _of_full_weights(opened.manifest))

    def _tune_layers(self, opened: OpenModule, clustered: Path, out: Path) -> Path:
        how, examples = self.wanted.tuning, read_examples(self._run, "data")
        # Rows that no step takes need no hidden states: the first ones of the order are numbered anew.
        steps = [*self._steps(how.steps * how.size, size=how.size)]
        used = [*dict.fromkeys(row for rows in steps for row in rows)]
        places = {row: place for place, row in enumerate(used)}
        directory = self._run / "layers"
        directory.mkdir(exist_ok=True)
        return LayerTuning(
            source=opened.source,
            base=WeightSource(opened.base),
            quantised=clustered,
            directory=directory,
            how=how,
            num_rows=len(used),
            layout_of=lambda place: next(_layouts(examples, iter([[used[place]]]), packed=True)),
            steps=[[places[row] for row in rows] for rows in steps],
            show=self._shower(how.steps * opened.source.num_layers),
        ).run(out, _of_full_weights(opened.manifest))

    def _measure_loss(self, opened: OpenModule, name: str, measured: Measured, directory: Path | None = None) -> None:
        """Measure the module in a directory on the held-out rows; full weights without one."""
        if not self.wanted.report.rows or name in measured.losses:
            return
        model = map_full(opened.source) if directory is None else load_trainable(opened.source, directory)
        measured.losses[name] = held_out_loss(model, map_model(opened.base), self._held_out())
        measured.write(self._run)
        self.reporter.say(f"held-out loss {_WHEN[name]}: {measured.losses[name]:.4f} ({self.wanted.report.rows} rows)")

    def _train(self, model: Any, base: Any) -> None:
        how, state = self.wanted.tuning, self._run / "tuning.pt"
        if how.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
            model.train()  # else transformers keeps activations; there is no dropout that it would switch on
        tuner = Tuner(model, base, how)
        if state.exists():
            tuner.restore(torch.load(state, weights_only=True))
            self.reporter.say(f"goes on after step {tuner.num_steps} of tuning")
        examples = read_examples(self._run, "data")
        first, show = tuner.num_steps, self._shower(how.steps)
        for layout in _layouts(examples, self._steps(how.steps * how.size, size=how.size, first=first), packed=False):
            done = tuner.step(layout)
            step = tuner.num_steps
            show(step, done, layout.num_tokens)
            if step % how.save_steps == 0 or step == how.steps:
                torch.save(tuner.state(), state.with_suffix(".partial"))
                state.with_suffix(".partial").rename(state)
        model.eval()

    def _shower(self, num_steps: int) -> Show:
        """What shows a step, timed from the one before it."""
        began, first, last = time.monotonic(), 0, time.monotonic()

        def show(step: int, done: Done, num_tokens: int) -> None:
            nonlocal first, last
            first, now = first or step - 1, time.monotonic()
            self.reporter.show(
                Report(
                    name=self.wanted.name,
                    step=step,
                    num_steps=num_steps,
                    loss=done.loss,
                    learning_rate=done.rate,
                    gradient_norm=done.norm,
                    tokens_per_s=num_tokens / max(1e-9, now - last),
                    remaining_s=(now - began) / (step - first) * (num_steps - step),
                )
            )
            last = now

        return show

    def _steps(self, num_rows: int, *, size: int, first: int = 0) -> Iterator[list[int]]:
        """Numbers of the rows of each step, from step `first` on: epoch after epoch, each in an order of its own."""
        order = SeededOrder(len(read_examples(self._run, "data")), self.wanted.seed)
        rows = _endless(order)
        for step in range(num_rows // size):
            chosen = [next(rows) for _ in range(size)]
            if step >= first:
                yield chosen

    def _held_out(self) -> Iterator[Layout]:
        examples = read_examples(self._run, "held-out")
        return _layouts(examples, ([number] for number in range(len(examples))), packed=True)

    def _measure(self, opened: OpenModule, directories: dict[str, Path], measured: Measured) -> None:
        """Ask the suite's problems, of each module once."""
        if self.wanted.report.suite is None or self._judge is None:
            return
        for name in (name for name in JUDGED if name not in measured.accuracies):
            directory = directories.get(name, opened.path)
            manifest = opened.manifest if name == "full" else _of_full_weights(opened.manifest)
            found = self._judge(opened.base, directory, manifest)
            measured.accuracies[name] = found
            measured.write(self._run)
            self.reporter.say(f"{self.wanted.report.suite}, {name}: {found['num_right']}/{found['num_problems']}")

    def _publish(self, opened: OpenModule, finished: Path, measured: Measured) -> None:
        """Effects: OUTPUT becomes a module that `launch` accepts; the manifest comes last."""
        record = self.directory.read_record()
        report = {**size_figures(sizes_of(opened.source, self.wanted.codebooks.shape)), **measured.as_dict()}
        before = opened.manifest
        quantised = {**record, "report": report}
        manifest = replace(
            before, name=self.wanted.name, kind="full", training={"quantised": quantised, "before": before.training}
        )
        write_manifest(finished, manifest)
        (finished / REPORT_NAME).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        for file in sorted(finished.iterdir(), key=lambda file: file.name == MANIFEST_NAME):
            file.chmod(0o644)
            file.replace(self.directory.output / file.name)
        finished.rmdir()


def _of_full_weights(manifest: ModuleManifest) -> ModuleManifest:
    """The manifest of what is made of a module: an adapter is no adapter any more."""
    return replace(manifest, kind="full")


def _layouts(examples: Examples, chosen: Iterator[list[int]], *, packed: bool) -> Iterator[Layout]:
    # Rows of several conversations are padded: side by side in one row, each query would be multiplied with the keys of
    # all conversations, and 8 took three times as long.
    collate = Collator(objective="cache-conditioned", packed=packed)
    for numbers in chosen:
        yield collate.layout([examples[number] for number in numbers])


def _endless(order: SeededOrder) -> Iterator[int]:
    for epoch in count():
        order.set_epoch(epoch)
        yield from order


def _copy(directory: Path, out: Path) -> Path:
    partial = out.with_name(f".{out.name}.copying")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(directory, partial)
    return partial.rename(out)
