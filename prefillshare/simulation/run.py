"""Simulates one case after the other: systems, sizes and loads, each with empty caches."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from prefillshare.bench.drivers.closed_loop import closed_loop
from prefillshare.bench.drivers.load import Load, poisson_arrivals
from prefillshare.bench.drivers.open_loop import open_loop
from prefillshare.bench.drivers.session import SessionDriver
from prefillshare.bench.records import RunRecord
from prefillshare.bench.systems.base import Target
from prefillshare.bench.workloads.base import Shape, Workload
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.config.router import Router
from prefillshare.errors import SimulationError
from prefillshare.simulation.clock import now_s, run_simulated
from prefillshare.simulation.figures import Figures, Slo, measure
from prefillshare.simulation.model import WorkerModel
from prefillshare.simulation.system import SimulatedSystem, Size, check_size

POLICIES = ("prefix_aware", "session", "round_robin", "least_loaded")
PER_MODULE = "per-module"
SYSTEMS = (*POLICIES, PER_MODULE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is simulated: every system in every size under every load."""

    workload: str
    """Name of the workload."""
    file: Path | None
    """File that it is made from."""
    shape: Shape
    """Its sizes; more than `num_sessions` sessions are played where the load asks for more."""
    modules: tuple[str, ...]
    """Decode modules."""
    systems: tuple[str, ...]
    """Policies of the shared system, and `per-module`."""
    sizes: tuple[Size, ...]
    """Numbers of workers."""
    loads: tuple[Load, ...]
    """How hard it is driven."""
    model: WorkerModel
    """The workers."""
    settings: Router
    """The router; `policy` is that of `per-module`."""
    is_load_per_worker: bool = False
    """Whether load and arrivals are those of one worker: ten workers get ten times as much."""
    arrival_rate: float | None = None
    """Closed loop: sessions arrive by chance, so many per second, and wait where too many run; None: all are there."""
    eager_min_tokens: int | None = None
    """Shortest answer that is computed ahead; None computes none."""
    slo: Slo | None = None
    """Limits of a call that counts as good; None counts none."""

    def __post_init__(self) -> None:
        for name in self.systems:
            if name not in SYSTEMS:
                raise SimulationError(f"there is no system {name!r}: choose from {', '.join(SYSTEMS)}")
        if not (self.systems and self.sizes and self.loads):
            raise SimulationError("there is nothing to simulate: give systems, workers and a load")
        # Before the first run: what has been simulated by then would be lost.
        for size in self.sizes:
            for name in self.systems:
                check_size(len(self.modules), size, is_shared=name != PER_MODULE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run."""

    system: str
    size: Size
    load: Load
    figures: Figures
    run: RunRecord


def simulate(plan: Plan, tell: Callable[[str], None] = lambda _: None) -> Iterator[Case]:
    """Yield each case of `plan` when it is done; `tell` hears of each before.

    Raises: SimulationError, BenchError when the workload cannot be made.
    """
    for size in plan.sizes:
        for load in plan.loads:
            scaled = replace(load, value=load.value * size.num_workers) if plan.is_load_per_worker else load
            workload = _make_workload(plan, scaled, size)
            for name in plan.systems:
                tell(f"{size.title}, {scaled.title}, {name}: {workload.num_calls} calls")
                yield run_case(plan, name, size, scaled, workload)


def run_case(plan: Plan, name: str, size: Size, load: Load, workload: Workload) -> Case:
    """Return one system under one load, simulated.

    Raises: SimulationError.
    """
    system, run = run_simulated(_drive(plan, name, size, load, workload))
    figures = measure(system=system, name=name, size=size, load=load, workload=workload, run=run, slo=plan.slo)
    return Case(system=name, size=size, load=load, figures=figures, run=run)


async def _drive(
    plan: Plan, name: str, size: Size, load: Load, workload: Workload
) -> tuple[SimulatedSystem, RunRecord]:
    policy = {} if name == PER_MODULE else {"policy": name}
    system = SimulatedSystem(
        modules=plan.modules,
        size=size,
        model=plan.model,
        settings=replace(plan.settings, **policy),  # type: ignore[arg-type]
        is_shared=name != PER_MODULE,
        eager_min_tokens=plan.eager_min_tokens,
    )
    targets = {module: Target(url="", model=module) for module in plan.modules}
    driver = SessionDriver(system, targets, workload, lambda call: None, clock=now_s)
    await _drive_load(driver, load, plan, size)
    await system.settle()
    wall_s = max((call.end_s or 0.0 for call in driver.calls), default=0.0)
    return system, RunRecord(calls=driver.calls, wall_s=wall_s)


async def _drive_load(driver: SessionDriver, load: Load, plan: Plan, size: Size) -> None:
    sessions, seed = driver.workload.sessions, plan.shape.seed
    if load.kind == "poisson":
        await open_loop(driver, poisson_arrivals(len(sessions), load.value, seed))
    elif load.kind == "timed":
        await open_loop(driver, [(session.arrival_s or 0.0) / load.value for session in sessions])
    elif plan.arrival_rate is None:
        await closed_loop(driver, int(load.value))
    else:
        rate = plan.arrival_rate * (size.num_workers if plan.is_load_per_worker else 1)
        await _admit(driver, int(load.value), poisson_arrivals(len(sessions), rate, seed))


async def _admit(driver: SessionDriver, concurrency: int, arrivals_s: list[float]) -> None:
    """Run sessions as they arrive, at most `concurrency` at a time; the time that they wait for it does not count."""
    waiting = iter(enumerate(arrivals_s))

    async def run_waiting() -> None:
        for number, arrival_s in waiting:
            await asyncio.sleep(max(0.0, arrival_s - driver.now_s()))
            await driver.run(number)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(concurrency):
            tasks.create_task(run_waiting())


def _make_workload(plan: Plan, load: Load, size: Size) -> Workload:
    num_sessions = plan.shape.num_sessions
    if load.kind == "closed":
        # As `prefillshare bench`: at least twice as many sessions as run at a time are played.
        num_sessions = max(num_sessions, 2 * int(load.value))
    elif load.kind == "poisson" and plan.is_load_per_worker:
        # Where more arrive per second, more are played: so runs of all sizes last equally long.
        num_sessions *= size.num_workers
    shape = replace(plan.shape, num_sessions=num_sessions)
    workload = make_workload(plan.workload, shape, plan.modules, plan.file)
    _check_fits(workload, plan.model)
    return workload


def _check_fits(workload: Workload, model: WorkerModel) -> None:
    longest = workload.longest_prompt() + model.page_size
    for name, tokens in (("prefill", model.prefill.pool_tokens), ("decode", model.decode.pool_tokens)):
        if tokens and longest > tokens:
            raise SimulationError(
                f"the longest call of {workload.name} needs {longest} tokens of KV with its answer and a {name} worker "
                f"of {model.name} has {tokens}: lower the sizes, or raise pool_tokens under [{name}] of the model"
            )
