"""Memory and disk that a run needs, from the shapes of its weights and the length of its rows.

Memory counts what must be there: weights that are only read lie in mapped files (`decode_module`), whose pages the
system takes back, so they are said apart.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prefillshare.config.quantisation import Quantisation
from prefillshare.quantize.source import WeightSource
from prefillshare.training.data.prepare import Prepared

TunedBy = Literal["module", "layer"]
"""What is tuned at once."""

_RUNTIME_BYTES = 700 * 2**20
"""Python with torch and transformers."""
_TOKENISING_BYTES = 500 * 2**20
"""The server's code beside it, which renders conversations."""
_COPIES_OF_GROUP = 10
"""Arrays in float32, as large as the layers of one group, that k-means has at once."""
_SLACK = 1.1
"""What the allocator holds beside what was asked for, as measured."""
_ADAM_COPIES = 4
"""A trained number, its gradient, and AdamW's two means."""
_EXPANDED_COPIES = 4
"""Arrays in float32, as large as one layer, when it is expanded and its gradient goes back into codebooks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes that each stage needs; 0 where there is no such stage."""

    clustering_bytes: int
    """Of k-means, a decoder layer at a time."""
    module_tuning_bytes: int
    """Of tuning the whole module at once."""
    layer_tuning_bytes: int
    """Of tuning one decoder layer after the other."""
    measuring_bytes: int
    """Of the loss of held-out rows."""
    mapped_bytes: int
    """Of weights that are only read, in files: without room for them in the page cache, moments and tuning are slow."""
    states_bytes: int
    """On disk, while layers are tuned: hidden states of the rows in front of and behind a layer."""

    def tuning_bytes(self, tuned_by: TunedBy) -> int:
        """Of tuning."""
        return self.module_tuning_bytes if tuned_by == "module" else self.layer_tuning_bytes

    def total_bytes(self, tuned_by: TunedBy) -> int:
        """The most memory that must be there."""
        return max(self.clustering_bytes, self.measuring_bytes, self.tuning_bytes(tuned_by))

    def disk_bytes(self, tuned_by: TunedBy) -> int:
        """On disk, beside the module."""
        return self.states_bytes if tuned_by == "layer" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What the rows of the data have."""

    num_rows: int = 0
    """Rows that something is learned from."""
    most_tokens: int = 0
    """Tokens of the longest."""
    most_queries: int = 0
    """Tokens that the decode module computes, of the row with the most."""
    mean_tokens: float = 0.0
    """Tokens of a row."""
    mean_queries: float = 0.0
    """Tokens that the decode module computes of a row."""


def rows_of(prepared: Prepared | None) -> Rows:
    """Return what the rows of prepared data have."""
    rows = prepared.training if prepared else []
    if not rows:
        return Rows()
    tokens = [sum(len(document.tokens) for document in row) for row in rows]
    queries = [sum(int(np.count_nonzero(document.weights)) for document in row) for row in rows]
    return Rows(
        num_rows=len(rows),
        most_tokens=max(tokens),
        most_queries=max(queries),
        mean_tokens=sum(tokens) / len(rows),
        mean_queries=sum(queries) / len(rows),
    )


def choose_way(wanted: Quantisation, need: Need, has_bytes: int) -> TunedBy:
    """Return what is tuned at once on a machine with so much memory."""
    if wanted.tuning.by != "auto":
        return wanted.tuning.by
    return "module" if need.module_tuning_bytes <= has_bytes else "layer"


def need_of(source: WeightSource, base: WeightSource, wanted: Quantisation, rows: Rows) -> Need:
    """Return what a run needs for such rows."""
    groups = [group for layer in range(source.num_layers) for group in source.linear_groups(layer)]
    sizes = [sum(source.num_values(f"{name}.weight") for name in group) for group in groups]
    runtime = _RUNTIME_BYTES + (_TOKENISING_BYTES if wanted.needs_data else 0)
    learns = bool(wanted.tuning.steps or wanted.moments.rows or wanted.report.rows)
    mapped = _stored_bytes(base) + (_stored_bytes(source) if source.base != base.base else 0)
    steps, tuned = wanted.tuning.steps, _trained_of_module(source, wanted)
    measured = tuned.fixed_bytes + 4 * tuned.num_trained + _row_bytes(source, rows)
    return Need(
        clustering_bytes=runtime + 4 * _COPIES_OF_GROUP * max(sizes),
        module_tuning_bytes=_with_slack(runtime, tuned.total_bytes + _pass_bytes(source, wanted, rows), steps),
        layer_tuning_bytes=_with_slack(runtime, _layer_bytes(source, base, wanted, rows), steps),
        measuring_bytes=_with_slack(runtime, measured, wanted.report.rows),
        mapped_bytes=mapped if learns else 0,
        states_bytes=_states_bytes(source, base, rows, steps * wanted.tuning.size),
    )


def _with_slack(runtime: int, num_bytes: int, is_wanted: int) -> int:
    return int(_SLACK * (runtime + num_bytes)) if is_wanted else 0


@dataclass(slots=True)
class _Trained:
    """What is in memory of layers that are trained, activations apart."""

    num_trained: int = 0
    fixed_bytes: int = 0
    """Codes, tensors that stay, and one layer expanded."""

    @property
    def total_bytes(self) -> int:
        return self.fixed_bytes + 4 * _ADAM_COPIES * self.num_trained


def _trained_of_module(source: WeightSource, wanted: Quantisation) -> _Trained:
    found = _trained_of(source, wanted, range(source.num_layers))
    found.fixed_bytes += 4 * sum(source.num_values(name) for name in source.other_names(None))
    return found


def _trained_of(source: WeightSource, wanted: Quantisation, layers: range) -> _Trained:
    shape, found, largest = wanted.codebooks.shape, _Trained(), 0
    for layer in layers:
        found.fixed_bytes += 4 * sum(source.num_values(name) for name in source.other_names(layer))
        for group in source.linear_groups(layer):
            found.num_trained += shape.num_codebooks * shape.num_entries * shape.segment
            for name in group:
                num_values = source.num_values(f"{name}.weight")
                found.fixed_bytes += num_values // shape.segment * shape.num_codebooks
                found.num_trained += num_values // shape.group
                largest = max(largest, num_values)
    found.fixed_bytes += 4 * _EXPANDED_COPIES * shape.num_codebooks * largest
    return found


def _layer_bytes(source: WeightSource, base: WeightSource, wanted: Quantisation, rows: Rows) -> int:
    """The most of: embeddings, a layer of base and of full weights, a layer that is trained."""
    names = [f"{name}.weight" for group in source.linear_groups(0) for name in group]
    stored = sum(base.stored_bytes(name) for name in names)
    # An adapter's product is as large as the tensor that it is added to.
    full = 4 * (sum(map(source.num_values, names)) + 2 * max(map(source.num_values, names)))
    embeddings = 2 * base.stored_bytes("model.embed_tokens.weight")
    coded = _trained_of(source, wanted, range(1)).total_bytes
    return max(embeddings, stored + full, coded) + 2 * _row_bytes(source, rows)


def _row_bytes(source: WeightSource, rows: Rows) -> int:
    """What a layer computes of the longest row."""
    layer = sum(sum(source.size(f"{name}.weight")) for group in source.linear_groups(0) for name in group)
    vocab_size = source.size("model.embed_tokens.weight")[0]
    return 4 * (rows.most_tokens * layer + rows.most_queries * (layer + vocab_size))


def _states_bytes(source: WeightSource, base: WeightSource, rows: Rows, num_used: int) -> int:
    """Two sets of hidden states of base, full weights and codebooks, and the KV of a layer."""
    name = "model.embed_tokens.weight"
    hidden, width = source.size(name)[1], base.stored_bytes(name) // base.num_values(name)
    kv = 2 * source.size("model.layers.0.self_attn.k_proj.weight")[0]
    per_token = width * (3 * hidden + kv)
    per_query = 4 * 5 * hidden
    return int(min(rows.num_rows, num_used) * (rows.mean_tokens * per_token + rows.mean_queries * per_query))


def _pass_bytes(source: WeightSource, wanted: Quantisation, rows: Rows) -> int:
    """What the largest step keeps for its backward pass: inputs and outputs of linear layers, KV, and logits."""
    sizes = [source.size(f"{name}.weight") for group in source.linear_groups(0) for name in group]
    vocab_size, hidden = source.size("model.embed_tokens.weight")
    layer = sum(sum(size) for size in sizes)
    kv = 2 * source.size("model.layers.0.self_attn.k_proj.weight")[0]
    if wanted.tuning.gradient_checkpointing:
        per_query, per_token = source.num_layers * hidden + layer, (source.num_layers + 1) * kv
    else:
        # The base's KV is copied into one tensor with the module's own.
        per_query, per_token = source.num_layers * layer, 2 * source.num_layers * kv
    per_query += 3 * vocab_size
    per_token += layer  # of one layer of the base, while it makes its KV
    return 4 * wanted.tuning.size * (rows.most_queries * per_query + rows.most_tokens * per_token)


def _stored_bytes(source: WeightSource) -> int:
    return sum(source.stored_bytes(name) for name in source.names())
