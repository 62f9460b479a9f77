"""Plans of small simulations, by a worker model of round numbers."""

from dataclasses import replace
from typing import Any

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.workloads.base import Shape
from prefillshare.config.router import Router
from prefillshare.simulation.model import DecodeModel, HandoffModel, PrefillModel, WorkerModel
from prefillshare.simulation.run import Case, Plan, simulate
from prefillshare.simulation.system import Size

MODEL = WorkerModel(
    name="round",
    source="round numbers",
    prefill=PrefillModel(step_s=0.01, token_s=0.001, chunk_tokens=256),
    decode=DecodeModel(step_s=0.02, sequence_s=0.001, context_token_s=1e-5, max_running=8),
    handoff=HandoffModel(bytes_per_s=1e6, kv_token_bytes=100, latency_s=0.001),
)
SHAPE = Shape(num_sessions=6, start_tokens=60, growth_tokens=10, output_tokens=(5,), turns=8)
PLAN = Plan(
    workload="react",
    file=None,
    shape=SHAPE,
    modules=("a", "b"),
    systems=("prefix_aware",),
    sizes=(Size(num_prefill=2, num_decode=2),),
    loads=(Load(kind="closed", value=3),),
    model=MODEL,
    settings=Router(),
)


def run_plan(**changes: Any) -> list[Case]:
    """Return the cases of the small plan with changes."""
    return list(simulate(replace(PLAN, **changes)))


def run_one(**changes: Any) -> Case:
    """Return its only case."""
    (case,) = run_plan(**changes)
    return case
