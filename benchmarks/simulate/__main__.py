"""Measure the tiny deployment, fit a worker model to it, simulate the same workload, and say how far apart they are.

Run: `python -m benchmarks.simulate [--out FILE]` on a quiet machine. The deployment is `models/tiny-agents-pd.toml`
with a worker per role; workload and driver are those of `prefillshare bench`. Goal: 15 % in throughput and p50.
"""

import argparse
import asyncio
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.records import RunRecord
from prefillshare.bench.report.machine import describe_machine
from prefillshare.bench.systems.shared import describe_cluster
from prefillshare.bench.workloads.base import Shape
from prefillshare.bench.workloads.react import react
from prefillshare.config import load_deployment
from prefillshare.config.schema import Deployment
from prefillshare.modules.deployment import resolve
from prefillshare.serving.machine.ports import free_port
from prefillshare.serving.options import LaunchOptions
from prefillshare.serving.run.cluster import RunningCluster, launch_cluster
from prefillshare.simulation.fit import fit_deployment
from prefillshare.simulation.model import WorkerModel, write_model
from prefillshare.simulation.run import Plan, simulate
from prefillshare.simulation.system import Size

DEPLOYMENT = Path(__file__).parents[2] / "models" / "tiny-agents-pd.toml"
SHAPE = Shape(
    num_sessions=16,
    start_tokens=600,
    growth_tokens=60,
    output_tokens=(16,),  # below eager_min_tokens: nothing is computed ahead
    turns=6,
    vocab_size=300,
    context_length=4096,
)
LOADS = tuple(Load(kind="closed", value=value) for value in (1, 2, 4, 8))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a run came to."""

    calls_per_s: float
    p50_s: float
    ttft_s: float

    @classmethod
    def of(cls, run: RunRecord) -> "Seen":
        """The figures of `run`; medians over its calls."""
        latencies = [call.latency_s for call in run.calls if call.latency_s is not None]
        firsts = [call.ttft_s for call in run.calls if call.ttft_s is not None]
        return cls(
            calls_per_s=len(latencies) / run.wall_s,
            p50_s=percentile(latencies, 50) or 0.0,
            ttft_s=percentile(firsts, 50) or 0.0,
        )


def main() -> None:
    """Run everything and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulate", description=__doc__)
    parser.add_argument("--out", type=Path, help="Markdown file for the table")
    parser.add_argument("--save-model", type=Path, help="TOML file for the fitted model")
    parser.add_argument("--port", type=int, help="port of the deployment; else any that is free")
    arguments = parser.parse_args()
    deployment = load_deployment(DEPLOYMENT)
    with tempfile.TemporaryDirectory() as folder:
        options = LaunchOptions(port=arguments.port or free_port(), log_path=Path(folder) / "deployment.log")
        cluster = launch_cluster(resolve(deployment), options)
        try:
            model = fit_deployment(
                deployment,
                cluster.url,
                cluster.api_key,
                tell=lambda text: print(text, flush=True),
                read_busy_s=_read_busy_s,
            )
            measured = [_measure(cluster, deployment, load) for load in LOADS]
        finally:
            cluster.stop(drain_s=0)
    if arguments.save_model:
        write_model(model, arguments.save_model)
    text = _table(measured, _simulate(deployment, model))
    print(text)
    if arguments.out:
        arguments.out.write_text(text, encoding="utf-8")


def _read_busy_s() -> float:
    """Return the core seconds of the deployment's processes and of this one, whatever else the machine does."""
    this = psutil.Process()
    times = [process.cpu_times() for process in (this, *this.children(recursive=True))]
    return sum(some.user + some.system for some in times)


def _measure(cluster: RunningCluster, deployment: Deployment, load: Load) -> Seen:
    modules = tuple(module.name for module in deployment.decode)
    warm_up = react(replace(SHAPE, num_sessions=1, tags=("warm-up",)), modules)
    run = asyncio.run(
        drive(
            describe_cluster(cluster),
            react(SHAPE, modules),
            warm_up,
            load,
            seed=SHAPE.seed,
            on_call=lambda call: None,
            timeout_s=300.0,
        )
    )
    return Seen.of(run)


def _simulate(deployment: Deployment, model: WorkerModel) -> list[Seen]:
    plan = Plan(
        workload="react",
        file=None,
        shape=SHAPE,
        modules=tuple(module.name for module in deployment.decode),
        systems=(deployment.router.policy,),
        sizes=(Size(num_prefill=1, num_decode=len(deployment.decode)),),
        loads=LOADS,
        model=model,
        settings=deployment.router,
    )
    return [Seen.of(case.run) for case in simulate(plan)]


def _table(measured: list[Seen], simulated: list[Seen]) -> str:
    machine = describe_machine()
    lines = [
        f"{machine['processor']}, {machine['cores']} cores, load before the start "
        f"{machine['load average before the start']}, {machine['date']}",
        "",
        "| load | calls/s measured | simulated | | p50 [ms] measured | simulated | | TTFT [ms] measured | simulated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for load, real, made in zip(LOADS, measured, simulated, strict=True):
        lines.append(
            f"| {load.title} | {real.calls_per_s:.2f} | {made.calls_per_s:.2f} | "
            f"{made.calls_per_s / real.calls_per_s - 1:+.0%} | {real.p50_s * 1e3:.0f} | {made.p50_s * 1e3:.0f} | "
            f"{made.p50_s / real.p50_s - 1:+.0%} | {real.ttft_s * 1e3:.0f} | {made.ttft_s * 1e3:.0f} |"
        )
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
