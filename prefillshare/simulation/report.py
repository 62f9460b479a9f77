"""Plots of simulated runs: over the load as `prefillshare bench` draws them, over the workers where sizes differ."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prefillshare.bench.metrics.statistics import spread
from prefillshare.bench.metrics.summary import FIGURES
from prefillshare.bench.report.plots import COLOURS, draw_plots
from prefillshare.bench.results import Result
from prefillshare.bench.store import StoredRun
from prefillshare.simulation.run import Case

_OVER_WORKERS = (
    ("latency_p95_s", "End-to-end p95", "simulated seconds", 1),
    ("output_tokens_per_s", "Throughput per worker", "output tokens/s per worker", 0),
    ("hit_ratio", "Prefix hit ratio", "share of prompt tokens", 1),
    ("imbalance", "Busiest prefill worker over the mean", "times the mean", 1),
    ("choice_us", "Choice of workers", "processor time per choice [us]", 1),
)
"""Figure, title, label, and whether it stands for all workers (1) or is divided by their number (0)."""


def draw_report(cases: Sequence[Case], num_modules: int, directory: Path) -> list[Path]:
    """Draw what the cases are enough for below `directory`; return the files."""
    files = []
    sizes = list(dict.fromkeys(case.size for case in cases))
    for size in sizes:
        results = [_as_result(case, num_modules) for case in cases if case.size == size]
        if len({result.load for result in results}) > 1 or len(sizes) == 1:
            files += draw_plots(results, directory / size.title)
    if len(sizes) > 1:
        files += _draw_over_workers(cases, directory)
    return files


def _as_result(case: Case, num_modules: int) -> Result:
    values = asdict(case.figures)
    return Result(
        num_modules=num_modules,
        load=case.load,
        system=case.system,
        figures={figure.key: spread([values.get(figure.key)]) for figure in FIGURES},
        runs=(StoredRun(record=case.run, context_length=0),),
    )


def _draw_over_workers(cases: Sequence[Case], directory: Path) -> list[Path]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    directory.mkdir(parents=True, exist_ok=True)
    files = []
    # Of too few calls there is no p95.
    drawn = [row for row in _OVER_WORKERS if any(getattr(case.figures, row[0]) is not None for case in cases)]
    for key, title, label, is_whole in drawn:
        figure, axes = pyplot.subplots(figsize=(7.0, 4.2), layout="constrained")
        for colour, name in zip(COLOURS, dict.fromkeys(case.system for case in cases), strict=False):
            points = [
                (case.size.num_workers, getattr(case.figures, key) / (1 if is_whole else case.size.num_workers))
                for case in cases
                if case.system == name and getattr(case.figures, key) is not None
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], "o-", color=colour, label=name)
        axes.set(xlabel="workers", ylabel=label, title=title, ylim=(0, None))
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        files.append(directory / f"{key.removesuffix('_s').replace('_', '-')}-over-workers.svg")
        figure.savefig(files[-1])
        pyplot.close(figure)
    return files
