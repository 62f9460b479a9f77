"""The figures of one run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prefillshare.bench.metrics.prefixes import Accounting, account
from prefillshare.bench.metrics.statistics import PERCENTS, percentile
from prefillshare.bench.records import CallRecord, RunRecord
from prefillshare.bench.workloads.base import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a call must reach to count as good."""

    ttft_s: float
    """Longest time to the first token in seconds."""
    gap_s: float
    """Longest mean time between tokens in seconds."""

    def is_met(self, call: CallRecord) -> bool:
        """Whether a call was good; one that failed never is."""
        if call.ttft_s is None or call.ttft_s > self.ttft_s:
            return False
        return not call.gaps_s or sum(call.gaps_s) / len(call.gaps_s) <= self.gap_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """How one figure is called and shown."""

    key: str
    """Key in the summary."""
    title: str
    """Name for people, with the unit."""
    digits: int = 3
    """Digits after the point."""
    is_better: str = ""
    """`lower`, `higher`, or empty where neither is better."""
    counted: str = "num_answered"
    """Figure that says from how many calls it comes."""


FIGURES = (
    Figure(key="latency_p50_s", title="end-to-end p50 [s]", is_better="lower"),
    Figure(key="latency_p95_s", title="end-to-end p95 [s]", is_better="lower"),
    Figure(key="latency_p99_s", title="end-to-end p99 [s]", is_better="lower"),
    Figure(key="session_p50_s", title="session p50 [s]", is_better="lower"),
    Figure(key="session_p95_s", title="session p95 [s]", is_better="lower"),
    Figure(key="ttft_p50_s", title="TTFT p50 [s]", is_better="lower"),
    Figure(key="ttft_p95_s", title="TTFT p95 [s]", is_better="lower"),
    Figure(key="ttft_p99_s", title="TTFT p99 [s]", is_better="lower"),
    Figure(key="gap_p50_s", title="inter-token p50 [s]", digits=4, is_better="lower"),
    Figure(key="gap_p95_s", title="inter-token p95 [s]", digits=4, is_better="lower"),
    Figure(key="gap_p99_s", title="inter-token p99 [s]", digits=4, is_better="lower"),
    Figure(key="output_tokens_per_s", title="output tokens/s", digits=1, is_better="higher"),
    Figure(key="calls_per_s", title="calls/s", is_better="higher"),
    Figure(
        key="goodput_calls_per_s",
        title="goodput under the SLO [calls/s]",
        is_better="higher",
        counted="num_within_slo",
    ),
    Figure(key="hit_ratio", title="prefix hit ratio", digits=4, is_better="higher"),
    Figure(key="ideal_shared_ratio", title="ideal, one shared cache", digits=4),
    Figure(key="ideal_own_ratio", title="ideal, a cache per module", digits=4),
    Figure(key="ideal_answers_ratio", title="ideal, one shared cache with the answers", digits=4),
    Figure(key="hit_of_ideal", title="hit ratio, of the system's ideal", digits=4, is_better="higher"),
    Figure(key="prefill_per_unique", title="prefilled per unique prompt token", digits=4, is_better="lower"),
    Figure(key="waited_per_new", title="prefilled while a call waits, per new token", digits=4, is_better="lower"),
    Figure(key="prefill_per_new", title="prefilled in all, per new token", digits=4, is_better="lower"),
    Figure(key="cross_module_share", title="cross-module share of hits", digits=4),
    Figure(key="kv_peak_tokens", title="KV peak [tokens]", digits=0, is_better="lower"),
    # No ratio: pools are equal by the budget, and without a GPU weights are the drop in free memory, whoever took it.
    Figure(key="memory_gb", title="weights and KV pools [GB]", digits=2),
    Figure(key="handoff_mb", title="KV handed off [MB]", digits=1, is_better="lower"),
    Figure(key="num_answered", title="answered calls", digits=0),
    Figure(key="num_within_slo", title="answered within the SLO", digits=0),
    Figure(key="cut_s", title="run cut after [s]", digits=0),
    Figure(key="num_failures", title="failed calls", digits=0),
)
"""What the table shows, in its order."""

Summary = dict[str, float | None]
"""Figures by key; None where a system does not say."""


def summarise(
    workload: Workload, run: RunRecord, slo: Slo, *, shares: bool | None, keeps_answers: bool = False
) -> Summary:
    """The figures of one run; `shares` is whether the system prefills once for all modules, None if nobody knows,
    `keeps_answers` whether what a module decodes is cached for all of them, too."""
    good = [call for call in run.calls if call.error is None]
    accounting = account(workload, run.calls)
    sessions = _session_times(workload, good)
    num_within_slo = sum(map(slo.is_met, good))
    return {
        **_percentiles("latency", (call.latency_s for call in good)),
        **{f"session_p{percent}_s": percentile(sessions, percent) for percent in (50, 95)},
        **_percentiles("ttft", (call.ttft_s for call in good)),
        **_percentiles("gap", (gap for call in good for gap in call.gaps_s)),
        "output_tokens_per_s": sum(len(call.output) for call in good) / run.wall_s,
        "calls_per_s": len(good) / run.wall_s,
        "goodput_calls_per_s": num_within_slo / run.wall_s,
        **_cache_figures(run, good, accounting, shares, keeps_answers),
        "kv_peak_tokens": max((sample.tokens for sample in run.kv), default=None),
        "memory_gb": run.memory_gb,
        "handoff_mb": _sum_or_none([call.handoff_bytes for call in good], 1e-6),
        "num_answered": len(good),
        "num_within_slo": num_within_slo,
        "cut_s": run.cut_s,
        # A failed call ends its session: what was never sent has failed, too, unless the run was cut.
        "num_failures": (workload.num_calls if run.cut_s is None else len(run.calls)) - len(good),
    }


def _cache_figures(
    run: RunRecord, good: Sequence[CallRecord], accounting: Accounting, shares: bool | None, keeps_answers: bool
) -> Summary:
    prompt, unique = accounting.prompt_tokens, accounting.unique_tokens
    cached = _sum_or_none([call.cached_tokens for call in good], 1)
    # What the engines counted wins over what the answers say: a prompt may be computed twice.
    prefilled = (
        run.prefilled_tokens if run.prefilled_tokens is not None else None if cached is None else prompt - cached
    )
    hit_ratio = None if prefilled is None or not prompt else 1 - prefilled / prompt
    ideals = {
        "ideal_shared_ratio": _per(accounting.shared_tokens, prompt),
        "ideal_own_ratio": _per(accounting.own_tokens, prompt),
        "ideal_answers_ratio": _per(accounting.known_tokens, prompt),
    }
    shared = "ideal_answers_ratio" if keeps_answers else "ideal_shared_ratio"
    waited = None if prefilled is None else prefilled - (run.eager_tokens or 0)
    return {
        "hit_ratio": hit_ratio,
        **ideals,
        "hit_of_ideal": _per(hit_ratio, ideals["ideal_own_ratio" if shares is False else shared]),
        "prefill_per_unique": _per(prefilled, unique),
        "waited_per_new": _per(waited, accounting.new_tokens),
        "prefill_per_new": _per(prefilled, accounting.new_tokens),
        "cross_module_share": _cross_share(accounting, cached, shares),
    }


def _per(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _cross_share(accounting: Accounting, cached: float | None, shares: bool | None) -> float | None:
    """Share of the hits on tokens that were first prefilled for another module."""
    if cached is None or shares is None:
        return None
    # A cache per module has none of them by its nature, although others may have prefilled the same tokens earlier.
    return accounting.cross_tokens / cached if cached and shares else 0.0


def _percentiles(name: str, values: Iterable[float | None]) -> Summary:
    known = [value for value in values if value is not None]
    return {f"{name}_p{percent}_s": percentile(known, percent) for percent in PERCENTS}


def _session_times(workload: Workload, good: Sequence[CallRecord]) -> list[float]:
    """Seconds from the arrival of a session to its last answer, of the sessions that were answered in full."""
    by_session: dict[int, list[CallRecord]] = {}
    for call in good:
        by_session.setdefault(call.session, []).append(call)
    times = []
    for number, calls in by_session.items():
        if len(calls) == len(workload.sessions[number].steps):
            times.append(max(call.end_s or 0.0 for call in calls) - min(call.due_s for call in calls))
    return times


def _sum_or_none(values: Sequence[int | None], factor: float) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) * factor if known else None
