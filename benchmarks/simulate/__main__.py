"""Measure the tiny deployment, fit a worker model to it, simulate the same workloads, and judge how far apart they are.

Run: `python -m benchmarks.simulate [--out FILE]` on a quiet machine. The deployment is `models/tiny-agents-pd.toml`
with a worker per role; the model is fitted to single prompts and batches, and judged by sessions of agents, which the
fit never asks. Goal: 15 % in throughput and p50; the exit code is 1 where it is missed.
"""

import argparse
import asyncio
import sys
import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from benchmarks.simulate.compare import Comparison, Seen, describe, judge, median_seen
from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.systems.shared import describe_cluster
from prefillshare.bench.workloads.base import Shape
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.config import load_deployment
from prefillshare.config.schema import Deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from prefillshare.simulation.core_clock import CoreClock, CoreSeconds
from prefillshare.simulation.fit import fit_deployment
from prefillshare.simulation.model import WorkerModel, read_model, write_model
from prefillshare.simulation.run import Plan, run_case
from prefillshare.simulation.system import Size

DEPLOYMENT = Path(__file__).parents[2] / "models" / "tiny-agents-pd.toml"
SHAPE = Shape(
    num_sessions=16,
    start_tokens=600,
    growth_tokens=60,
    output_tokens=(16,),
    turns=6,
    vocab_size=300,
    context_length=4096,
)
WORKLOADS = ("react", "reflexion")
LOADS = tuple(Load(kind="closed", value=value) for value in (1, 2, 4, 8))
Measured = dict[tuple[str, Load], list[Seen]]


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--save-model", type=Path, help="TOML file for the fitted model")
    parser.add_argument("--model", type=Path, help="TOML file of a fitted model, in place of a fit")
    parser.add_argument("--port", type=int, help="port of the deployment; else any that is free")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each load, of which the median counts")
    arguments = parser.parse_args()
    deployment = load_deployment(DEPLOYMENT)
    with tempfile.TemporaryDirectory() as folder:
        options = LaunchOptions(port=arguments.port or free_port(), log_path=Path(folder) / "deployment.log")
        cluster = launch_cluster(resolve(deployment), options)
        try:
            clock = CoreClock(cluster.processes())
            model = read_model(arguments.model) if arguments.model else _fit(cluster, deployment, clock)
            if arguments.save_model:
                write_model(model, arguments.save_model)
            measured = _measure_all(cluster, deployment, clock, arguments.repeats)
        finally:
            cluster.stop(drain_s=0)
    compared = [
        Comparison(
            workload=name, load=load.title, real=median_seen(runs), made=_simulate(deployment, model, name, load)
        )
        for (name, load), runs in measured.items()
    ]
    text = describe(compared, arguments.repeats)
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")
    sys.exit(0 if judge(compared) else 1)


def _fit(cluster: RunningCluster, deployment: Deployment, clock: CoreClock) -> WorkerModel:
    return fit_deployment(
        deployment, cluster.url, cluster.api_key, tell=lambda text: print(text, flush=True), clock=clock
    )


def _measure_all(cluster: RunningCluster, deployment: Deployment, clock: CoreClock, repeats: int) -> Measured:
    """Every load once, then again: what changes on the machine in the meantime meets all of them."""
    measured: Measured = defaultdict(list)
    for repeat in range(repeats):
        for name in WORKLOADS:
            for load in LOADS:
                seen = _measure(cluster, deployment, clock, name, load, seed=1 + repeat)
                print(f"{name}, {load.title}: {seen.calls_per_s:.2f} calls/s", flush=True)
                measured[name, load].append(seen)
    return measured


def _measure(
    cluster: RunningCluster, deployment: Deployment, clock: CoreClock, name: str, load: Load, seed: int
) -> Seen:
    modules = tuple(module.name for module in deployment.decode)
    warm_up = make_workload(name, replace(SHAPE, num_sessions=1, turns=1, seed=seed, tags=("warm-up",)), modules, None)
    before = clock.read()
    run = asyncio.run(
        drive(
            describe_cluster(cluster),
            make_workload(name, replace(SHAPE, seed=seed), modules, None),
            warm_up,
            load,
            seed=seed,
            on_call=lambda call: None,
            timeout_s=300.0,
        )
    )
    return Seen.of(run, (clock.read() - before).per(len(run.calls) + warm_up.num_calls))


def _simulate(deployment: Deployment, model: WorkerModel, name: str, load: Load) -> Seen:
    modules = tuple(module.name for module in deployment.decode)
    size = Size(num_prefill=deployment.prefill.workers, num_decode=len(modules))
    policy = deployment.router.policy
    plan = Plan(
        workload=name,
        file=None,
        shape=SHAPE,
        modules=modules,
        systems=(policy,),
        sizes=(size,),
        loads=(load,),
        model=model,
        settings=deployment.router,
        eager_min_tokens=deployment.prefill.eager_min_tokens if deployment.prefill.eager_answers else None,
    )
    case = run_case(plan, policy, size, load, make_workload(name, SHAPE, modules, None))
    made = case.figures
    prefill, decode = made.prefill_core_s_per_call, made.decode_core_s_per_call
    rest = made.core_s_per_call - prefill - decode
    return Seen.of(case.run, CoreSeconds(prefill=prefill, decode=decode, rest=rest))


if __name__ == "__main__":
    main()
