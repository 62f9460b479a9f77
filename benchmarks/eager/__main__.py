"""Measure what computing ahead costs a saturated engine: `python -m benchmarks.eager [--family tiny] [--rounds 3]`.

Two engines serve the same modules, one of them without `eager_answers`. Callers who go on at once with each answer lead
sessions that come and go, so many at a time, with one engine and then the other, in turns. What is computed ahead is in
nobody's way if the 95th percentile of the time to the first token is the same. The table has the percentiles of all
rounds' calls, the median round's speed, and how many tokens were computed ahead in all rounds.
"""

import argparse
import asyncio
import itertools
import platform
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.families.factory import make_family
from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.records import RunRecord
from prefillshare.bench.report.machine import processor_name
from prefillshare.bench.systems.base import Running, Setup
from prefillshare.bench.systems.shared import Shared, SharedLazy
from prefillshare.bench.workloads.base import Shape, Workload
from prefillshare.bench.workloads.react import react

SYSTEMS = (SharedLazy(), Shared())
TIMEOUT_S = 600.0


def make_workload(modules: tuple[str, ...], options: argparse.Namespace, *tags: str, num_sessions: int) -> Workload:
    """Sessions whose answers come back, none of them like another one's."""
    shape = Shape(
        num_sessions=num_sessions,
        start_tokens=options.prompt,
        growth_tokens=24,
        output_tokens=(options.tokens,),
        turns=options.turns,
        tags=tags,
    )
    return react(shape, modules)


def measure_round(
    running: Running, modules: tuple[str, ...], num_callers: int, number: int, options: argparse.Namespace
) -> RunRecord:
    """So many sessions at a time, three times as many in all."""
    workload = make_workload(modules, options, f"round-{number}", num_sessions=3 * num_callers)
    warm_up = make_workload(modules, options, f"before-{number}", num_sessions=1)
    load = Load(kind="closed", value=num_callers)
    record = asyncio.run(
        drive(running, workload, warm_up, load, seed=number, on_call=lambda call: None, timeout_s=TIMEOUT_S)
    )
    assert all(call.error is None for call in record.calls)
    return record


def describe(records: Sequence[RunRecord]) -> list[str]:
    """Cells of one system: percentiles of the first token, tokens per second, tokens computed ahead."""
    waits_s = [call.ttft_s for record in records for call in record.calls if call.ttft_s is not None]
    found = [percentile(waits_s, percent) for percent in (50, 95)]
    cells = ["too few" if wait_s is None else f"{wait_s * 1e3:.0f}" for wait_s in found]
    speeds = [sum(len(call.output) for call in record.calls) / record.wall_s for record in records]
    return [*cells, f"{statistics.median(speeds):.1f}", f"{sum(record.eager_tokens or 0 for record in records)}"]


def measure(options: argparse.Namespace) -> None:
    """Print a row for each system and number of callers, as Markdown."""
    deployment = make_family(options.family).deployment(options.modules, print)
    modules = tuple(module.name for module in deployment.decode)
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory()))
        setup = Setup(deployment=deployment, kv_tokens=options.kv_tokens, log_dir=logs)
        running = {system.name: stack.enter_context(system.start(setup)) for system in SYSTEMS}
        for num_callers in options.callers:
            found: dict[str, list[RunRecord]] = {name: [] for name in running}
            for number, name in itertools.product(range(options.rounds), running):
                found[name].append(measure_round(running[name], modules, num_callers, number, options))
            for name, records in found.items():
                print("|", " | ".join([str(num_callers), name, *describe(records)]), "|", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.eager", description=__doc__)
    parser.add_argument("--family", default="tiny")
    parser.add_argument("--modules", type=int, default=3)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--prompt", type=int, default=400, help="tokens of a session's first prompt")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--turns", type=int, default=6, help="calls of a session")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kv-tokens", type=int, default=16384)
    options = parser.parse_args()
    command = " ".join(["python -m benchmarks.eager", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}; `{command}`\n")
    print("| callers at a time | | TTFT p50, ms | p95, ms | output tokens/s | computed ahead |")
    print("|---:|---|---:|---:|---:|---:|")
    measure(options)


if __name__ == "__main__":
    main()
