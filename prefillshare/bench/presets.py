"""Sizes that fit a kind of machine; every option of the command line overrides its part."""

from dataclasses import dataclass, replace

from prefillshare.accelerators import gpus
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.summary import Slo
from prefillshare.bench.workloads.base import Shape
from prefillshare.errors import BenchError


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
    module_counts: tuple[int, ...] = (4,)
    """Numbers of decode modules."""
    repeats: int = 3
    """Starts of each system."""
    num_checked: int = 8
    """Answers that are compared with the reference."""
    run_limit_s: float | None = None
    """Seconds after which each run is cut."""
    time_limit_s: float | None = None
    """Seconds for all of it."""


_LONG_CONTEXTS = Shape(
    num_sessions=64,
    start_tokens=6000,
    growth_tokens=200,
    output_tokens=(64,),
    turns=16,
    context_length=32768,
)

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
        shape=_LONG_CONTEXTS,
        loads=tuple(Load(kind="poisson", value=value) for value in (0.5, 1, 2, 4)),
        kv_tokens=None,
        slo=Slo(ttft_s=1.0, gap_s=0.05),
    ),
    # Two systems, two starts of one to two minutes each, four runs of a minute and a half: what a short loan allows.
    "gpu-15min": Preset(
        family="qwen3-1.7b-shape",
        shape=replace(_LONG_CONTEXTS, num_sessions=48),
        loads=tuple(Load(kind="closed", value=value) for value in (24, 8)),
        kv_tokens=200_000,
        slo=Slo(ttft_s=1.0, gap_s=0.05),
        module_counts=(8,),
        repeats=1,
        num_checked=4,
        run_limit_s=90.0,
        time_limit_s=14 * 60.0,
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
