"""Measure the router: `python -m benchmarks.router [--smg PATH] [--out DIRECTORY]`.

The router under test has the first core to itself; workers and clients share the second. Each target gets the same
calls: an open loop for the time to the first byte, then a closed loop for calls per second. Added time is the
difference of equal percentiles to direct calls, measured in the same run. On a machine that has other work,
`chrt -r 1 python -m benchmarks.router` keeps that work out of the figures.
"""

import argparse
import dataclasses
import functools
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.router.calls import Target, closed_loop, open_loop, until_answered
from benchmarks.router.processes import Running, direct, router, smg
from benchmarks.router.report import write_report
from prefillshare.bench.report.machine import processor_name

START_TIMEOUT_S = 60.0
WARM_UP_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """How much is asked of each target."""

    rate: float
    """Calls per second of the open loop."""
    duration_s: float
    """Length of the open loop."""
    saturation_s: float
    """Length of the closed loop."""
    num_clients: int
    """Clients of the closed loop."""


async def measure(process: Running, load: Load) -> dict[str, Any]:
    """Return the figures of one target."""
    target = Target(process.port)
    if not await until_answered(lambda: target.call(0.0), START_TIMEOUT_S):
        sys.exit(f"nothing answered at port {process.port}: {target.last_error}")
    target.num_errors = 0
    await open_loop(target, rate=load.rate, duration_s=WARM_UP_S, seed=1)
    cpu_s = process.cpu_s
    timings = await open_loop(target, rate=load.rate, duration_s=load.duration_s, seed=2)
    open_cpu_s, cpu_s = process.cpu_s - cpu_s, process.cpu_s
    calls_per_s = await closed_loop(target, num_clients=load.num_clients, duration_s=load.saturation_s)
    return {
        "calls": len(timings),
        "errors": target.num_errors,
        "last_error": target.last_error if target.num_errors else None,
        "first_byte_ms": percentiles([timing.first_byte_s for timing in timings]),
        "whole_ms": percentiles([timing.whole_s for timing in timings]),
        "cores_used_open_loop": round(open_cpu_s / load.duration_s, 3),
        "saturated_calls_per_s": round(calls_per_s, 1),
        "cores_used_saturated": round((process.cpu_s - cpu_s) / load.saturation_s, 3),
        "rss_mib": round(process.rss_mib, 1),
    }


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Return p50, p90, p99 and the largest, in milliseconds."""
    ordered = sorted(seconds)
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}
    return {
        name: round(1000 * ordered[min(int(share * len(ordered)), len(ordered) - 1)], 3)
        for name, share in shares.items()
    }


def run_all(load: Load, smg_path: Path | None, cores: tuple[int, int]) -> dict[str, Any]:
    """Measure direct calls, the router and, where its program is given, smg, each with workers of its own."""
    os.sched_setaffinity(0, {cores[1]})
    starts = {"direct": direct, "router": router}
    if smg_path is not None:
        starts["smg"] = functools.partial(smg, smg_path)
    results: dict[str, Any] = {}
    for name, start in starts.items():
        with start(cores) as process:
            results[name] = uvloop.run(measure(process, load))
        if name == "smg":
            results[name]["version"] = read_version(smg_path)
        results[name]["added_first_byte_ms"] = subtract_direct(results[name], results["direct"])
        print(name, results[name], file=sys.stderr)
    return results


def read_version(program: Path | None) -> str:
    """Return what `program` says of its version."""
    said = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=False).stdout
    return said.strip().splitlines()[0] if said.strip() else "smg"


def subtract_direct(result: dict[str, Any], direct: dict[str, Any]) -> dict[str, float]:
    """Return by how much each percentile is above that of direct calls, in milliseconds."""
    return {name: round(value - direct["first_byte_ms"][name], 3) for name, value in result["first_byte_ms"].items()}


def describe_machine() -> str:
    """Return processor, cores and Python version, how busy the machine is, and with which priority this runs."""
    is_realtime = os.sched_getscheduler(0) in (os.SCHED_RR, os.SCHED_FIFO)
    priority = "real-time priority (inherited by all processes of the run)" if is_realtime else "normal priority"
    load = f"load average {os.getloadavg()[0]:.1f} before the run"
    return f"{processor_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, {load}, {priority}"


def main() -> None:
    """Parse the command line, measure, write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.router", description=__doc__)
    parser.add_argument("--smg", type=Path, help="program of the gateway smg, such as VENV/bin/smg")
    parser.add_argument(
        "--out", type=Path, default=Path("docs/results"), help="directory for router.json and router.md"
    )
    parser.add_argument("--rate", type=float, default=100.0, help="calls per second")
    parser.add_argument("--duration", type=float, default=60.0, help="seconds of the open loop")
    parser.add_argument("--saturation", type=float, default=15.0, help="seconds of the closed loop")
    parser.add_argument("--clients", type=int, default=32, help="clients of the closed loop")
    parser.add_argument("--cores", type=int, nargs=2, default=(0, 1), help="core of the router, core of all else")
    given = parser.parse_args()
    load = Load(rate=given.rate, duration_s=given.duration, saturation_s=given.saturation, num_clients=given.clients)
    described = describe_machine()
    results = run_all(load, given.smg, tuple(given.cores))
    write_report(given.out, results, load=dataclasses.asdict(load), machine=described)


if __name__ == "__main__":
    main()
