"""What both forms of the report say in words."""

from collections.abc import Sequence
from typing import Any

from prefillshare.bench.metrics.statistics import least_values
from prefillshare.bench.plan import Plan
from prefillshare.bench.report.table import Table
from prefillshare.bench.results import MAX_FAILED, MIN_CALLS, Result

_CUT = (
    " Some runs were cut: their figures are of the calls that were answered until then. A slower system gets less far "
    "into its sessions, so in its figures cold starts weigh more and contexts are shorter."
)


def title_of(plan: Plan) -> str:
    """The headline."""
    return f"{plan.workload}: {', '.join(plan.system_names)} ({plan.family})"


def summary_line(plan: Plan, results: Sequence[Result]) -> str:
    """How often and under which conditions it was measured."""
    repeats = {len(result.runs) for result in results}
    done = " to ".join(str(num) for num in sorted({min(repeats, default=0), max(repeats, default=0)}))
    return (
        f"Seed {plan.shape.seed}; {done} of {plan.repeats} repeats; each system starts anew per repeat, "
        "the systems take turns. "
        f"KV budget of each system: {plan.kv_tokens or 'chosen by the engine'} tokens. "
        f"SLO of the goodput: TTFT {plan.slo.ttft_s:g} s, {plan.slo.gap_s:g} s between tokens. "
        "Medians over the repeats, their range in brackets. The ratios say how many times better the first system is; "
        f"below 1 it is worse. A dash: not known, fewer than {least_values(95)} values for a p95 or {least_values(99)} "
        f"for a p99, or, of a ratio, fewer than {MIN_CALLS} calls or more than {MAX_FAILED:.0%} failed ones in a run."
        + (_CUT if any(run.record.cut_s is not None for result in results for run in result.runs) else "")
    )


def fidelity_rows(results: Sequence[Result]) -> Table:
    """Greedy answers of measured calls against plain transformers + peft; no rows where none were compared."""
    header = ["modules", "load", "system", "equal to the reference", "tokens equal up to the first difference"]
    rows = []
    for result in results:
        for found in (run.record.fidelity for run in result.runs if run.record.fidelity):
            where = [str(result.num_modules), result.load.title, result.system]
            agreed = found["token_agreement"]  # None where no call was answered
            rows.append(
                [*where, f"{found['exact']} of {found['compared']}", "-" if agreed is None else f"{agreed:.4f}"]
            )
    return header, rows


def value_text(value: Any) -> str:
    """A value of the machine's description."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
