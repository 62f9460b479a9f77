"""Sizes that fit a kind of machine; every option of the command line overrides its part."""

from dataclasses import dataclass

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.summary import Slo
from prefillshare.bench.workloads.base import Shape
from prefillshare.errors import BenchError
from prefillshare.serving.machine import gpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Everything that depends on how fast the machine is."""

    family: str
    """Family that is measured."""
    shape: Shape
    """Sizes of the workload."""
    loads: tuple[Load, ...]
    """Levels of load."""
    kv_tokens: int | None
    """KV budget of each system."""
    slo: Slo
    """What a good call is."""


PRESETS = {
    "cpu": Preset(
        family="bench-0.1b",
        # So many turns that fewer than one call in twenty opens a session: p95 is that of an agent at work.
        shape=Shape(num_sessions=8, start_tokens=512, growth_tokens=24, output_tokens=(8,), turns=24),
        loads=tuple(Load(kind="closed", value=value) for value in (1, 4)),
        kv_tokens=16384,
        slo=Slo(ttft_s=5.0, gap_s=0.5),
    ),
    "gpu-8b": Preset(
        family="qwen3-8b-shape",
        shape=Shape(
            num_sessions=64,
            start_tokens=6000,
            growth_tokens=200,
            output_tokens=(64,),
            turns=16,
            context_length=32768,
        ),
        loads=tuple(Load(kind="poisson", value=value) for value in (0.5, 1, 2, 4)),
        kv_tokens=None,
        slo=Slo(ttft_s=1.0, gap_s=0.05),
    ),
}


def choose_preset(name: str | None) -> Preset:
    """The preset `name`; without one, what fits this machine.

    Raises: BenchError.
    """
    if name is None:
        name = "gpu-8b" if gpus() else "cpu"
    if name not in PRESETS:
        raise BenchError(f"there is no preset {name!r}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
