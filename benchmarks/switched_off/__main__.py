"""Measure whether what is switched off costs anything: `python -m benchmarks.switched_off OLDER [--rounds 6]`.

OLDER is another checkout of this project, such as `git worktree add ../older COMMIT`, with or without a `.venv` of its
own. Both serve the tiny family at once, without answers that are computed ahead, without a store, and without sessions
that wait for memory; the same sessions go to one and then to the other, in turns, and every second round the other way
round. CPU is that of all processes of a deployment. The table has the medians of all rounds, and of their ratios: a
machine that is busy or warm in a round is so for both.
"""

import argparse
import asyncio
import platform
import statistics
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.switched_off.checkouts import MODULES, Checkout, Served, StartError, serve
from prefillshare.bench.drivers.drive import drive
from prefillshare.bench.drivers.load import Load
from prefillshare.bench.report.machine import processor_name
from prefillshare.bench.workloads.base import Shape, Workload
from prefillshare.bench.workloads.react import react

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 600.0
FIGURES = (("CPU ms per call", "cpu_ms"), ("output tokens/s", "tokens_per_s"), ("TTFT p50, ms", "ttft_ms"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What a round of one checkout took."""

    cpu_ms: float
    """CPU milliseconds per call."""
    tokens_per_s: float
    """Output tokens per second."""
    ttft_ms: float
    """Median time to the first token."""


def make_workload(tag: str, options: argparse.Namespace, num_sessions: int) -> Workload:
    """Sessions whose prompts share nothing with those of other tags."""
    shape = Shape(
        num_sessions=num_sessions,
        start_tokens=options.prompt,
        growth_tokens=24,
        output_tokens=(options.tokens,),
        turns=options.turns,
        tags=(tag,),
    )
    return react(shape, MODULES)


def measure_round(served: Served, num_callers: int, number: int, options: argparse.Namespace) -> Round:
    """So many sessions at a time."""
    workload = make_workload(f"round-{number}", options, num_sessions=max(options.sessions, num_callers))
    warm_up = make_workload(f"before-{number}", options, num_sessions=1)
    load, before_s = Load(kind="closed", value=num_callers), served.cpu_s()
    record = asyncio.run(
        drive(served.running, workload, warm_up, load, seed=number, on_call=lambda call: None, timeout_s=TIMEOUT_S)
    )
    assert all(call.error is None for call in record.calls)
    num_calls = sum(len(session.steps) for session in [*workload.sessions, *warm_up.sessions])
    return Round(
        cpu_ms=(served.cpu_s() - before_s) * 1e3 / num_calls,
        tokens_per_s=sum(len(call.output) for call in record.calls) / record.wall_s,
        ttft_ms=statistics.median(call.ttft_s for call in record.calls if call.ttft_s is not None) * 1e3,
    )


def measure_pairs(
    both: tuple[Served, Served], num_callers: int, options: argparse.Namespace
) -> list[tuple[Round, Round]]:
    """Rounds of both checkouts, this one's first."""
    pairs = []
    for number in range(options.rounds + 1):
        order = (0, 1) if number % 2 else (1, 0)
        found = {which: measure_round(both[which], num_callers, number, options) for which in order}
        pairs.append((found[0], found[1]))
    return pairs[1:]  # the first one warms up


def describe(pairs: list[tuple[Round, Round]], num_callers: int) -> list[str]:
    """Rows of the table."""
    rows = []
    for title, name in FIGURES:
        ours, others = ([getattr(pair[which], name) for pair in pairs] for which in (0, 1))
        ratios = sorted(our / other for our, other in zip(ours, others, strict=True))
        cells = [f"{statistics.median(figures):.1f}" for figures in (ours, others)]
        ratio = f"{statistics.median(ratios):.3f}x ({ratios[0]:.3f} to {ratios[-1]:.3f})"
        rows.append(" | ".join([str(num_callers), title, *cells, ratio]))
    return rows


def measure(options: argparse.Namespace) -> None:
    """Print the table, as Markdown."""
    checkouts = (Checkout(name="this", path=ROOT), Checkout(name="older", path=options.older.resolve()))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        first, second = (
            stack.enter_context(serve(each, options.topology, options.kv_tokens, folder)) for each in checkouts
        )
        for num_callers in options.callers:
            for row in describe(measure_pairs((first, second), num_callers, options), num_callers):
                print(f"| {row} |", flush=True)


def read_commit(path: Path) -> str:
    """The commit that is checked out there."""
    return subprocess.run(
        ["git", "-C", path, "describe", "--always", "--dirty"], check=True, capture_output=True, text=True
    ).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.switched_off", description=__doc__)
    parser.add_argument("older", type=Path, help="another checkout")
    parser.add_argument("--topology", choices=("colocated", "disaggregated"), default="colocated")
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--sessions", type=int, default=8, help="sessions of a round")
    parser.add_argument("--prompt", type=int, default=400, help="tokens of a session's first prompt")
    parser.add_argument("--tokens", type=int, default=24, help="tokens of each answer")
    parser.add_argument("--turns", type=int, default=2, help="rounds of the three modules in a session")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--kv-tokens", type=int, default=16384)
    options = parser.parse_args()
    command = " ".join(["python -m benchmarks.switched_off", *sys.argv[1:]])
    print(f"{processor_name()}, Python {platform.python_version()}; {read_commit(ROOT)} beside")
    print(f"{read_commit(options.older)}; `{command}`\n")
    print("| callers at a time | | this | older | this / older (least to most) |")
    print("|---:|---|---:|---:|---:|")
    try:
        measure(options)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
