"""Tuning where a whole module does not fit: one decoder layer after the other, each against its full weights.

A layer's codebooks, scales and norms are trained so that what comes out of it, from what the layers before it really
give, is what the full weights would have given; all over the base's KV. Nothing but one layer is in memory: the hidden
states of all rows lie on disk (`states`), and each weight is read once.

TUNED/layer-00003.safetensors   a finished layer, as the module has it
TUNED/states/                   hidden states in front of the layer that is next

Killed at any moment, the next call goes on with the layer that was not finished, from its first step.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefillshare.config.quantisation import Tuning
from prefillshare.modules.manifest import ModuleManifest
from prefillshare.quantize.decode_module import is_trained
from prefillshare.quantize.one_layer import coded_layer, plain_layer, run_prefill, run_queries, stored_name
from prefillshare.quantize.source import WeightSource
from prefillshare.quantize.states import Row, States, kv_of, with_kv
from prefillshare.quantize.tune import Descent, Done, in_place, trained_tensors, write_changed
from prefillshare.training.layout import Layout

Show = Callable[[int, Done, int], None]
"""Told of each step: how many are done, what it was like, and its tokens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTuning:
    """A run of tuning layer by layer."""

    source: WeightSource
    """The full weights."""
    base: WeightSource
    """Those of the prefill module."""
    quantised: Path
    """The module as k-means left it."""
    directory: Path
    """Where it keeps what is needed to go on."""
    how: Tuning
    """Steps of each layer, and rates."""
    num_rows: int
    """Rows that steps take."""
    layout_of: Callable[[int], Layout]
    """The layout of a row alone, made when it is wanted: the masks of all rows would take more than a layer."""
    steps: Sequence[list[int]]
    """Numbers of the rows of each step, the same for every layer."""
    show: Show
    """Where progress goes."""

    def run(self, out: Path, manifest: ModuleManifest) -> Path:
        """Tune all layers and write the module into `out`.

        Effects: `out` appears complete or not at all; afterwards the hidden states are gone.
        """
        states = States(self.directory / "states")
        if states.layer() is None and not self._file(self.source.num_layers - 1).exists():
            self._embed(states)
        for layer in range(states.layer() or 0, self.source.num_layers):
            self._tune_layer(states, layer)
        states.remove()
        return write_changed(self.quantised, out, manifest, self._tensors_of)

    def _tune_layer(self, states: States, layer: int) -> None:
        if not self._file(layer).exists():
            self._compute_behind(states, layer)
            model = coded_layer(self.source, WeightSource(self.quantised), layer)
            self._train(model, states, layer)
            self._write(model, layer)
        if layer + 1 < self.source.num_layers:
            self._go_on(states, layer)

    def _embed(self, states: States) -> None:
        """Hidden states in front of the first layer: embeddings."""
        name = "model.embed_tokens.weight"
        base, own = self.base.read(name), self.source.read(name)

        def embed(row: int) -> Row:
            layout = self.layout_of(row)
            queries = nn.functional.embedding(layout.inputs, own).float()
            return {
                "base": nn.functional.embedding(layout.prefill_tokens, base),
                "full": queries,
                "coded": queries.clone(),
            }

        states.write(0, self.num_rows, embed)

    @torch.no_grad()
    def _compute_behind(self, states: States, layer: int) -> None:
        base, full = plain_layer(self.base, layer), plain_layer(self.source, layer, torch.float32)

        def compute(row: int) -> Row:
            before, layout = states.before(row), self.layout_of(row)
            hidden, sink = run_prefill(base, layout, before["base"])
            return with_kv({"base": hidden, "full": run_queries(full, layout, before["full"], sink)}, sink)

        states.write_behind(self.num_rows, compute)

    def _train(self, model: nn.Module, states: States, layer: int) -> None:
        descent = Descent(model, self.how)
        for rows in self.steps:
            done = descent.step(self._losses(model, states, rows))
            num_done = layer * self.how.steps + descent.num_steps
            self.show(num_done, done, sum(self.layout_of(row).num_tokens for row in rows))

    def _losses(self, model: nn.Module, states: States, rows: list[int]) -> Iterator[Tensor]:
        """A summand for each row of the step's loss: the mean square of what is wrong over that of what is right."""
        behind = [states.behind(row) for row in rows]
        total = sum(float(row["full"].pow(2).sum()) for row in behind)
        for row, wanted in zip(rows, behind, strict=True):
            found = run_queries(model, self.layout_of(row), states.before(row)["coded"], kv_of(wanted))
            yield (found - wanted["full"]).pow(2).sum() / total

    @torch.no_grad()
    def _go_on(self, states: States, layer: int) -> None:
        """From the hidden states in front of a tuned layer to those in front of the next."""
        model = coded_layer(self.source, WeightSource(self.quantised), layer)
        stored = load_file(self._file(layer))
        for name, parameter in model.named_parameters(remove_duplicate=False):
            if is_trained(name):
                parameter.copy_(stored[stored_name(name, layer)])

        def compute(row: int) -> Row:
            behind = states.behind(row)
            coded = run_queries(model, self.layout_of(row), states.before(row)["coded"], kv_of(behind))
            return {"base": behind["base"], "full": behind["full"], "coded": coded}

        states.write(layer + 1, self.num_rows, compute)

    def _write(self, model: nn.Module, layer: int) -> None:
        trained = {stored_name(name, layer): value for name, value in trained_tensors(model).items()}
        partial = self.directory / "layer.partial"
        tensors = load_file(self.quantised / self._file(layer).name)
        save_file(in_place(tensors, trained), partial, {"format": "pt"})
        partial.rename(self._file(layer))

    def _file(self, layer: int) -> Path:
        return self.directory / f"layer-{layer:05}.safetensors"

    def _tensors_of(self, file: Path) -> Row:
        tuned = self.directory / file.name
        return load_file(tuned if tuned.exists() else file)
