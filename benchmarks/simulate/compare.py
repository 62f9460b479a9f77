"""Figures of a run, measured or simulated, and both beside each other."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.records import RunRecord
from prefillshare.bench.report.machine import describe_machine
from prefillshare.errors import BenchError

GOAL = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a run came to."""

    calls_per_s: float
    """Throughput."""
    p50_s: float
    """Median time of a call."""
    ttft_s: float
    """Median time to the first token."""
    core_s: float
    """Core seconds of a call: of the deployment and of whoever asks it."""

    @classmethod
    def of(cls, run: RunRecord, core_s: float) -> "Seen":
        """The figures of `run`; medians over its calls.

        Raises: BenchError when a call failed.
        """
        failed = [call.error for call in run.calls if call.error is not None]
        if failed:
            raise BenchError(f"{len(failed)} calls failed, the first with: {failed[0]}")
        latencies = [call.latency_s for call in run.calls if call.latency_s is not None]
        firsts = [call.ttft_s for call in run.calls if call.ttft_s is not None]
        return cls(
            calls_per_s=len(latencies) / run.wall_s,
            p50_s=percentile(latencies, 50) or 0.0,
            ttft_s=percentile(firsts, 50) or 0.0,
            core_s=core_s,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One workload under one load."""

    workload: str
    load: str
    real: Seen
    made: Seen

    @property
    def deviations(self) -> tuple[float, float]:
        """By what share the simulated throughput and p50 are above the measured ones."""
        return self.made.calls_per_s / self.real.calls_per_s - 1, self.made.p50_s / self.real.p50_s - 1


def median_seen(runs: Sequence[Seen]) -> Seen:
    """The median of each figure."""
    return Seen(**{item.name: statistics.median(getattr(run, item.name) for run in runs) for item in fields(Seen)})


def judge(compared: Sequence[Comparison]) -> bool:
    """Whether all throughputs and medians are within the goal."""
    return all(abs(deviation) <= GOAL for row in compared for deviation in row.deviations)


def describe(compared: Sequence[Comparison], repeats: int) -> str:
    """Table and verdict as Markdown."""
    machine = describe_machine()
    deviations = [deviation for row in compared for deviation in row.deviations]
    num_within = sum(abs(deviation) <= GOAL for deviation in deviations)
    return "\n".join(
        [
            "| workload | load | calls/s measured | simulated | | p50 [ms] measured | simulated | "
            "| TTFT [ms] measured | simulated | core ms per call measured | simulated |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *(_row(row) for row in compared),
            "",
            f"({machine['processor']}, {machine['cores']} cores, Python {machine['Python']}, load average now "
            f"{machine['load average before the start']}, {machine['date']}; measured: medians of {repeats} runs.)",
            "",
            f"{num_within} of {len(deviations)} deviations are within {GOAL:.0%}; the largest is "
            f"{max(deviations, key=abs):+.0%}.",
            "",
        ]
    )


def _row(row: Comparison) -> str:
    real, made, (throughput, median) = row.real, row.made, row.deviations
    return (
        f"| {row.workload} | {row.load} | {real.calls_per_s:.2f} | {made.calls_per_s:.2f} | {throughput:+.0%} | "
        f"{real.p50_s * 1e3:.0f} | {made.p50_s * 1e3:.0f} | {median:+.0%} | {real.ttft_s * 1e3:.0f} | "
        f"{made.ttft_s * 1e3:.0f} | {real.core_s * 1e3:.0f} | {made.core_s * 1e3:.0f} |"
    )
