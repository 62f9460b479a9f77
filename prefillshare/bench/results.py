"""The finished runs of a measurement, summed up over the repeats."""

from dataclasses import asdict, dataclass
from typing import Any

from prefillshare.bench.drivers.load import Load
from prefillshare.bench.metrics.statistics import Spread, spread
from prefillshare.bench.metrics.summary import FIGURES, Figure, Summary, summarise
from prefillshare.bench.plan import Cell, Plan
from prefillshare.bench.runner import Runner
from prefillshare.bench.store import Store, StoredRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One system under one load with one number of modules."""

    num_modules: int
    """Decode modules."""
    load: Load
    """How hard it was driven."""
    system: str
    """Name of the system."""
    figures: dict[str, Spread | None]
    """Each figure's median and range over the repeats."""
    runs: tuple[StoredRun, ...]
    """The repeats."""

    def median(self, key: str) -> float | None:
        """Median of a figure; None where the system does not say."""
        figure = self.figures[key]
        return figure.median if figure else None

    def as_dict(self) -> dict[str, Any]:
        """The result without its runs, as JSON."""
        return {
            "num_modules": self.num_modules,
            "load": asdict(self.load),
            "system": self.system,
            "repeats": len(self.runs),
            "figures": {key: value and asdict(value) for key, value in self.figures.items()},
            "fidelity": [run.record.fidelity for run in self.runs if run.record.fidelity],
        }


def collect(plan: Plan, store: Store, runner: Runner) -> list[Result]:
    """All results, by number of modules, load and system; what is not finished is left out."""
    results = []
    for num_modules in plan.module_counts:
        for load in plan.loads:
            for system in plan.system_names:
                if result := _result(plan, store, runner, num_modules, load, system):
                    results.append(result)
    return results


def _result(plan: Plan, store: Store, runner: Runner, num_modules: int, load: Load, system: str) -> Result | None:
    cells = [
        Cell(repeat=repeat, num_modules=num_modules, system=system, load=load) for repeat in range(1, plan.repeats + 1)
    ]
    runs = tuple(store.get(cell) for cell in cells if store.has(cell))
    if not runs:
        return None
    workload = runner.workload(num_modules, load)
    shares, keeps_answers = runner.shares(system), runner.keeps_answers(system, num_modules)
    summaries = [summarise(workload, run.record, plan.slo, shares=shares, keeps_answers=keeps_answers) for run in runs]
    return Result(num_modules=num_modules, load=load, system=system, figures=_spreads(summaries), runs=runs)


def _spreads(summaries: list[Summary]) -> dict[str, Spread | None]:
    return {figure.key: spread([summary[figure.key] for summary in summaries]) for figure in FIGURES}


MIN_CALLS = 20
"""Of fewer calls, no ratio is said: chance alone makes one."""
MAX_FAILED = 0.01
"""Share of failed calls beyond which no ratio is said: those that were answered are then a choice of the easy ones."""


def ratio(figure: Figure, ours: Result, theirs: Result) -> float | None:
    """How many times better `ours` is; below 1 it is worse. None where neither way is better, a median is missing, or
    either has too few or too many failed calls to say."""
    mine, other = ours.median(figure.key), theirs.median(figure.key)
    if not figure.is_better or mine is None or other is None:
        return None
    if not (_has_enough_calls(figure, ours) and _has_enough_calls(figure, theirs)):
        return None
    above, below = (other, mine) if figure.is_better == "lower" else (mine, other)
    return above / below if below else None


def _has_enough_calls(figure: Figure, result: Result) -> bool:
    counted, answered, failed = (result.figures[key] for key in (figure.counted, "num_answered", "num_failures"))
    if counted is None or counted.low < MIN_CALLS:
        return False
    return not (answered and failed) or failed.high <= MAX_FAILED * (answered.low + failed.high)
