"""The table: a row per figure, a column per system, and how many times better the first system is than each other."""

from collections.abc import Sequence

from prefillshare.bench.metrics.statistics import Spread
from prefillshare.bench.metrics.summary import FIGURES, Figure
from prefillshare.bench.results import Result, ratio

MISSING = "-"

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def make_table(results: Sequence[Result]) -> Table:
    """The whole measurement as one table."""
    systems = list(dict.fromkeys(result.system for result in results))
    header = ["modules", "load", "figure", *systems]
    header += [f"{systems[0]} vs {system}" for system in systems[1:]] if systems else []
    rows = []
    for point in _points(results):
        for figure in FIGURES:
            if any(result.figures[figure.key] for result in point.values()):
                rows.append(_row(figure, point, systems))
    return header, rows


def _points(results: Sequence[Result]) -> list[dict[str, Result]]:
    """Results of one number of modules and one load, by system."""
    points: dict[tuple[int, str], dict[str, Result]] = {}
    for result in results:
        points.setdefault((result.num_modules, result.load.key), {})[result.system] = result
    return list(points.values())


def _row(figure: Figure, point: dict[str, Result], systems: list[str]) -> list[str]:
    some = next(iter(point.values()))
    cells = [str(some.num_modules), some.load.title, figure.title]
    cells += [_format(figure, point[name].figures[figure.key]) if name in point else MISSING for name in systems]
    return cells + [_ratio(figure, point, systems[0], system) for system in systems[1:]]


def _format(figure: Figure, value: Spread | None) -> str:
    if value is None:
        return MISSING
    median, low, high = (f"{number:.{figure.digits}f}" for number in (value.median, value.low, value.high))
    return median if low == high else f"{median} ({low} to {high})"


def _ratio(figure: Figure, point: dict[str, Result], first: str, other: str) -> str:
    if first not in point or other not in point:
        return MISSING
    value = ratio(figure, point[first], point[other])
    return MISSING if value is None else f"{value:.2f}x"
