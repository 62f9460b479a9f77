"""The plot of `prefillshare grow report`: units of each task, and parameters beside separate modules."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

MILLION = 1e6
KINDS = (("reused", "#9bb8d3"), ("split", "#e2b36b"), ("new", "#c2573a"))


def draw(rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any], file: Path) -> None:
    """Draw a family as SVG.

    Effects: writes `file`.
    """
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": "prefillshare", "svg.fonttype": "none", "font.size": 9}):
        figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        _draw_units(left, rows)
        _draw_parameters(right, rows, total)
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _draw_units(axes: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    names, floor = [row["task"] for row in rows], [0] * len(rows)
    for kind, colour in KINDS:
        counts = [row[kind] for row in rows]
        axes.bar(names, counts, bottom=floor, label=kind, color=colour)
        floor = [below + count for below, count in zip(floor, counts, strict=True)]
    axes.set_ylabel("units")
    axes.tick_params(axis="x", rotation=45)
    axes.legend(frameon=False)


def _draw_parameters(axes: Any, rows: Sequence[Mapping[str, Any]], total: Mapping[str, Any]) -> None:
    names = [row["task"] for row in rows]
    separate = [number * total["num_separate_per_task"] / MILLION for number in range(1, len(rows) + 1)]
    grown = [number / MILLION for number in accumulate(row["num_parameters"] for row in rows)]
    axes.plot(names, separate, "o-", markersize=3, color="#777777", label=f"separate modules of rank {total['rank']}")
    axes.plot(names, grown, "o-", markersize=3, color="#c2573a", label="family")
    axes.set_ylabel("parameters up to this task, millions")
    axes.tick_params(axis="x", rotation=45)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
