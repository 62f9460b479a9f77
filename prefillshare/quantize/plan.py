"""What a run would make and need, before it starts: rows, sizes, memory."""

import math
from dataclasses import dataclass
from typing import Any

from prefillshare.config.quantisation import Quantisation
from prefillshare.errors import ModuleError
from prefillshare.quantize.layers import Sizes, sizes_of
from prefillshare.quantize.need import Need, TunedBy, choose_way, need_of, rows_of
from prefillshare.quantize.opening import OpenModule
from prefillshare.quantize.source import WeightSource
from prefillshare.training.data.prepare import Prepared
from prefillshare.training.finetune.estimate import GIB, device_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a dry run knows."""

    lines: tuple[str, ...]
    """The plan for people."""
    figures: dict[str, Any]
    """The same for scripts."""
    need: Need
    """Memory."""
    tuned_by: TunedBy
    """What is tuned at once."""


def make_plan(opened: OpenModule, wanted: Quantisation, prepared: Prepared | None) -> Plan:
    """Say what a run would make and need.

    Raises: ModuleError when a layer cannot be cut up.
    """
    sizes = sizes_of(opened.source, wanted.codebooks.shape)
    need = need_of(opened.source, WeightSource(opened.base), wanted, rows_of(prepared))
    _, has_bytes = device_memory()
    tuned_by = choose_way(wanted, need, has_bytes)
    lines = [
        *(prepared.report.lines() if prepared else ["rows      none: neither moments nor tuning nor held-out rows"]),
        *size_lines(sizes),
        *_step_lines(wanted, need, tuned_by, opened.source.num_layers),
        *_need_lines(need, tuned_by),
        f"machine   {_gib(has_bytes)}{_verdict(need, tuned_by, has_bytes)}",
    ]
    figures = {
        "num_rows": prepared.report.num_rows if prepared else 0,
        "num_used": prepared.report.num_used if prepared else 0,
        "num_held_out": len(prepared.held_out) if prepared else 0,
        "num_steps": wanted.tuning.steps,
        **size_figures(sizes),
        "clustering_bytes": need.clustering_bytes,
        "tuned_by": tuned_by,
        "tuning_bytes": need.tuning_bytes(tuned_by),
        "measuring_bytes": need.measuring_bytes,
        "mapped_bytes": need.mapped_bytes,
        "memory_bytes": need.total_bytes(tuned_by),
        "disk_bytes": need.disk_bytes(tuned_by),
        "machine_bytes": has_bytes,
    }
    return Plan(lines=tuple(lines), figures=figures, need=need, tuned_by=tuned_by)


def _step_lines(wanted: Quantisation, need: Need, tuned_by: TunedBy, num_layers: int) -> list[str]:
    how = wanted.tuning
    if not how.steps:
        return ["steps     none: no tuning"]
    if tuned_by == "module":
        return [f"steps     {how.steps} of tuning, {how.size} rows each"]
    why = "" if how.by == "layer" else f" (the whole module needs {_gib(need.module_tuning_bytes)})"
    return [f"steps     {how.steps} of tuning for each of {num_layers} layers{why}, {how.size} rows each"]


def _need_lines(need: Need, tuned_by: TunedBy) -> list[str]:
    stages = {"k-means": need.clustering_bytes, "tuning": need.tuning_bytes(tuned_by), "loss": need.measuring_bytes}
    lines = ["memory    " + ", ".join(f"{name} {_gib(size)}" for name, size in stages.items() if size)]
    if need.mapped_bytes:
        lines.append(f"  beside it  {_gib(need.mapped_bytes)} of files that {_reader(tuned_by)} reads")
    if disk_bytes := need.disk_bytes(tuned_by):
        lines.append(f"disk      {_gib(disk_bytes)} of hidden states while layers are tuned")
    return lines


def _reader(tuned_by: TunedBy) -> str:
    return "each step" if tuned_by == "module" else "each row of moments and loss"


def check_memory(plan: Plan) -> None:
    """Refuse a run that cannot end well.

    Raises: ModuleError.
    """
    _, has_bytes = device_memory()
    total_bytes = plan.need.total_bytes(plan.tuned_by)
    if total_bytes > has_bytes:
        fix = _fix(plan.need, plan.tuned_by, has_bytes)
        raise ModuleError(f"it needs {_gib(total_bytes)} of memory and this machine has {_gib(has_bytes)}{fix}")


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


def _verdict(need: Need, tuned_by: TunedBy, has_bytes: int) -> str:
    total_bytes = need.total_bytes(tuned_by)
    if total_bytes > has_bytes:
        return f": it will not fit{_fix(need, tuned_by, has_bytes)}"
    if total_bytes + need.mapped_bytes > has_bytes:
        missing = math.ceil((total_bytes + need.mapped_bytes - has_bytes) / GIB)
        return f": it fits; {_reader(tuned_by)} reads about {missing} GiB from the disk again"
    return ": it fits"


def _fix(need: Need, tuned_by: TunedBy, has_bytes: int) -> str:
    if need.clustering_bytes > has_bytes:
        return ": use a larger machine"
    if need.tuning_bytes(tuned_by) <= has_bytes:
        return "; write rows = 0 under [report], which measures the loss of the whole module"
    if tuned_by == "module" and need.layer_tuning_bytes <= has_bytes:
        return f'; write by = "layer" under [tuning] ({_gib(need.layer_tuning_bytes)})'
    return f"; write steps = 0 under [tuning] for k-means alone ({_gib(need.clustering_bytes)}), or lower max_tokens"


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.2f} GiB" if num_bytes >= GIB / 10 else f"{num_bytes / 2**20:.1f} MiB"
