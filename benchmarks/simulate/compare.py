"""Figures of a run, measured or simulated, and both beside each other."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import permutations

from prefillshare.bench.metrics.statistics import percentile
from prefillshare.bench.records import CallRecord, RunRecord
from prefillshare.bench.report.machine import describe_machine
from prefillshare.errors import BenchError
from prefillshare.simulation.core_clock import CoreSeconds, median_core_seconds

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
    cores: CoreSeconds
    """Core seconds of a call, of which the rest is HTTP, tokenizers, router, and whoever asks."""
    others: float
    """Other sequences that the same module decodes, on average while it decodes one."""

    @classmethod
    def of(cls, run: RunRecord, cores: CoreSeconds) -> "Seen":
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
            cores=cores,
            others=_count_others(run.calls),
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
    medians = {
        item.name: statistics.median(getattr(run, item.name) for run in runs)
        for item in fields(Seen)
        if item.name != "cores"
    }
    return Seen(cores=median_core_seconds([run.cores for run in runs]), **medians)


def _count_others(calls: Sequence[CallRecord]) -> float:
    """Return how many other sequences a module decodes, on average over what its own take."""
    spans = [(call.module, call.first_s or 0.0, call.end_s or 0.0) for call in calls]
    own_s = sum(end_s - first_s for _, first_s, end_s in spans)
    together_s = sum(
        max(0.0, min(end_s, other_end_s) - max(first_s, other_first_s))
        for (module, first_s, end_s), (other, other_first_s, other_end_s) in permutations(spans, 2)
        if module == other
    )
    return together_s / own_s if own_s else 0.0


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
            "| TTFT [ms] measured | simulated | core ms per call: prefill + decode + rest, measured | simulated "
            "| others decoded with it measured | simulated |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
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
        f"{made.ttft_s * 1e3:.0f} | {_parts(real)} | {_parts(made)} | {real.others:.2f} | {made.others:.2f} |"
    )


def _parts(seen: Seen) -> str:
    cores = seen.cores
    return f"{cores.prefill * 1e3:.0f} + {cores.decode * 1e3:.0f} + {cores.rest * 1e3:.0f}"
