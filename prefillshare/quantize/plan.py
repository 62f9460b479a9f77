"""What a run would make and need, before it starts: rows, sizes, memory.

Memory counts what must be there: weights that are only read lie in mapped files (`decode_module`), whose pages the
system takes back, so they are said apart.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefillshare.config.quantisation import Quantisation
from prefillshare.errors import ModuleError
from prefillshare.quantize.layers import Sizes, sizes_of
from prefillshare.quantize.opening import OpenModule
from prefillshare.quantize.source import WeightSource
from prefillshare.training.data.prepare import Prepared
from prefillshare.training.finetune.estimate import GIB, device_memory

_RUNTIME_BYTES = 700 * 2**20
"""Python with torch and transformers."""
_TOKENISING_BYTES = 500 * 2**20
"""The server's code beside it, which renders conversations."""
_COPIES_OF_GROUP = 10
"""Arrays in float32, as large as the layers of one group, that k-means has at once."""
_ADAM_COPIES = 4
"""A trained number, its gradient, and AdamW's two means."""
_EXPANDED_COPIES = 4
"""Arrays in float32, as large as one layer, when it is expanded and its gradient goes back into codebooks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Bytes of memory of each stage; 0 where there is no such stage."""

    clustering_bytes: int
    """Of k-means, a decoder layer at a time."""
    tuning_bytes: int
    """Of tuning."""
    mapped_bytes: int
    """Of weights that are only read, in files: without room for them in the page cache, moments and tuning are slow."""

    @property
    def total_bytes(self) -> int:
        """The most that must be there."""
        return max(self.clustering_bytes, self.tuning_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Longest:
    """The most that one row of the data has."""

    num_tokens: int = 0
    """Tokens."""
    num_queries: int = 0
    """Tokens that the decode module computes."""


def need_of(source: WeightSource, base: WeightSource, wanted: Quantisation, longest: Longest) -> Need:
    """Return the memory that a run needs for rows no longer than `longest`."""
    groups = [group for layer in range(source.num_layers) for group in source.linear_groups(layer)]
    sizes = [sum(source.num_values(f"{name}.weight") for name in group) for group in groups]
    runtime = _RUNTIME_BYTES + (_TOKENISING_BYTES if wanted.needs_data else 0)
    clustering = runtime + 4 * _COPIES_OF_GROUP * max(sizes)
    learns = bool(wanted.tuning.steps or wanted.moments.rows or wanted.report.rows)
    mapped = _stored_bytes(base) + (_stored_bytes(source) if source.base != base.base else 0)
    return Need(
        clustering_bytes=clustering,
        tuning_bytes=runtime + _tuning_bytes(source, wanted, longest) if wanted.tuning.steps else 0,
        mapped_bytes=mapped if learns else 0,
    )


def _tuning_bytes(source: WeightSource, wanted: Quantisation, longest: Longest) -> int:
    shape = wanted.codebooks.shape
    others = [*source.other_names(None)]
    codes = trained = largest = 0
    for layer in range(source.num_layers):
        others += source.other_names(layer)
        for group in source.linear_groups(layer):
            trained += shape.num_codebooks * shape.num_entries * shape.segment
            for name in group:
                num_values = source.num_values(f"{name}.weight")
                codes += num_values // shape.segment * shape.num_codebooks
                trained += num_values // shape.group
                largest = max(largest, num_values)
    other_bytes = 4 * sum(source.num_values(name) for name in others)
    expanded = 4 * _EXPANDED_COPIES * shape.num_codebooks * largest
    return codes + 4 * _ADAM_COPIES * trained + other_bytes + expanded + _pass_bytes(source, wanted, longest)


def _pass_bytes(source: WeightSource, wanted: Quantisation, longest: Longest) -> int:
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
    return 4 * wanted.tuning.size * (longest.num_queries * per_query + longest.num_tokens * per_token)


def _stored_bytes(source: WeightSource) -> int:
    return sum(source.stored_bytes(name) for name in source.names())


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dry run knows."""

    lines: tuple[str, ...]
    """The plan for people."""
    figures: dict[str, Any]
    """The same for scripts."""
    need: Need
    """Memory."""


def make_plan(opened: OpenModule, wanted: Quantisation, prepared: Prepared | None) -> Plan:
    """Say what a run would make and need.

    Raises: ModuleError when a layer cannot be cut up.
    """
    sizes = sizes_of(opened.source, wanted.codebooks.shape)
    need = need_of(opened.source, WeightSource(opened.base), wanted, _longest(prepared))
    _, has_bytes = device_memory()
    lines = [
        *(prepared.report.lines() if prepared else ["rows      none: neither moments nor tuning nor held-out rows"]),
        *size_lines(sizes),
        *_step_lines(wanted),
        *_need_lines(need),
        f"machine   {_gib(has_bytes)}{_verdict(need, has_bytes)}",
    ]
    figures = {
        "num_rows": prepared.report.num_rows if prepared else 0,
        "num_used": prepared.report.num_used if prepared else 0,
        "num_held_out": len(prepared.held_out) if prepared else 0,
        "num_steps": wanted.tuning.steps,
        **size_figures(sizes),
        "clustering_bytes": need.clustering_bytes,
        "tuning_bytes": need.tuning_bytes,
        "mapped_bytes": need.mapped_bytes,
        "memory_bytes": need.total_bytes,
        "machine_bytes": has_bytes,
    }
    return Plan(lines=tuple(lines), figures=figures, need=need)


def _step_lines(wanted: Quantisation) -> list[str]:
    how = wanted.tuning
    return [f"steps     {how.steps} of tuning, {how.size} rows each"] if how.steps else ["steps     none: no tuning"]


def _need_lines(need: Need) -> list[str]:
    stages = {"k-means": need.clustering_bytes, "tuning": need.tuning_bytes}
    lines = ["memory    " + ", ".join(f"{name} {_gib(size)}" for name, size in stages.items() if size)]
    if need.mapped_bytes:
        lines.append(f"  beside it  {_gib(need.mapped_bytes)} of files that each step reads")
    return lines


def check_memory(need: Need) -> None:
    """Refuse a run that cannot end well.

    Raises: ModuleError.
    """
    _, has_bytes = device_memory()
    if need.total_bytes > has_bytes:
        raise ModuleError(
            f"it needs {_gib(need.total_bytes)} of memory and this machine has {_gib(has_bytes)}{_fix(need, has_bytes)}"
        )


def size_lines(sizes: Sizes) -> list[str]:
    """Sizes for people."""
    return [
        f"weights   {sizes.num_weights:,} in linear layers, {sizes.bits_per_weight:.3f} bits each: "
        f"{_gib(sizes.linear_bytes)}, {sizes.times_smaller_than_bf16:.1f} times smaller than in bfloat16",
        f"module    {_gib(sizes.linear_bytes + sizes.other_bytes)}, {_gib(sizes.other_bytes)} of it embeddings, head "
        "and norms, which stay as they are",
    ]


def size_figures(sizes: Sizes) -> dict[str, Any]:
    """Sizes for scripts."""
    return {
        "num_weights": sizes.num_weights,
        "bits_per_weight": round(sizes.bits_per_weight, 4),
        "times_smaller_than_bf16": round(sizes.times_smaller_than_bf16, 3),
        "linear_bytes": sizes.linear_bytes,
        "other_bytes": sizes.other_bytes,
    }


def _longest(prepared: Prepared | None) -> Longest:
    rows = prepared.training if prepared else []
    return Longest(
        num_tokens=max((sum(len(document.tokens) for document in row) for row in rows), default=0),
        num_queries=max((sum(int(np.count_nonzero(document.weights)) for document in row) for row in rows), default=0),
    )


def _verdict(need: Need, has_bytes: int) -> str:
    if need.total_bytes > has_bytes:
        return f": it will not fit{_fix(need, has_bytes)}"
    if need.total_bytes + need.mapped_bytes > has_bytes:
        missing = math.ceil((need.total_bytes + need.mapped_bytes - has_bytes) / GIB)
        return f": it fits; each step reads about {missing} GiB from the disk again"
    return ": it fits"


def _fix(need: Need, has_bytes: int) -> str:
    if need.clustering_bytes > has_bytes:
        return ": use a larger machine"
    return (
        f"; write steps = 0 under [tuning] for k-means alone ({_gib(need.clustering_bytes)}), or lower size there and set "
        "gradient_checkpointing = true"
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
