"""Plots of a measurement, each as PNG and as SVG."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefillshare.bench.results import Result

_SIZE = (7.0, 4.2)
_DPI = 130
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")


def draw_plots(results: Sequence[Result], directory: Path) -> list[Path]:
    """Draw everything that the results are enough for; return the SVG files, in the report's order."""
    import matplotlib as mpl

    mpl.use("Agg")
    directory.mkdir(parents=True, exist_ok=True)
    files = []
    for num_modules in sorted({result.num_modules for result in results}):
        some = [result for result in results if result.num_modules == num_modules]
        over_load = _OVER_LOAD if len({result.load for result in some}) > 1 else {}
        over_time = _OVER_TIME if any(run.record.kv for result in some for run in result.runs) else {}
        for name, draw in (_PER_COUNT | over_time | over_load).items():
            files.append(_draw(directory / f"{name}-n{num_modules}", some, draw, f"{num_modules} modules"))
    if len({result.num_modules for result in results}) > 1:
        for name, draw in _OVER_COUNT.items():
            files.append(_draw(directory / name, results, draw, ""))
    return files


def _draw(stem: Path, results: Sequence[Result], draw: Callable[[Any, Sequence[Result]], None], title: str) -> Path:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=_SIZE, layout="constrained")
    draw(axes, results)
    axes.set_title(f"{axes.get_title()}{f', {title}' if title else ''}")
    axes.grid(alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize="small")
    figure.savefig(stem.with_name(f"{stem.name}.png"), dpi=_DPI)
    svg = stem.with_name(f"{stem.name}.svg")
    figure.savefig(svg)
    pyplot.close(figure)
    return svg


def _latency_cdf(axes: Any, results: Sequence[Result]) -> None:
    """Of the highest load that was measured."""
    load = results[-1].load
    for colour, result in zip(COLOURS, (result for result in results if result.load == load), strict=False):
        latencies = sorted(
            call.latency_s for run in result.runs for call in run.record.calls if call.latency_s is not None
        )
        if latencies:
            shares = [(index + 1) / len(latencies) for index in range(len(latencies))]
            axes.step([0.0, *latencies], [0.0, *shares], where="post", color=colour, label=result.system)
    axes.set(xlabel="end-to-end seconds", ylabel="share of calls", title=f"Latency at {load.title}", ylim=(0, 1.02))


def _over_load(key: str, title: str, label: str, ideals: bool = False) -> Callable[[Any, Sequence[Result]], None]:
    def draw(axes: Any, results: Sequence[Result]) -> None:
        _lines(axes, results, key, lambda result: result.load.value)
        if ideals:
            _ideals(axes, results, lambda result: result.load.value)
        axes.set(xlabel=_load_label(results), ylabel=label, title=title, ylim=(0, None))

    return draw


def _over_modules(key: str, title: str, label: str, ideals: bool = False) -> Callable[[Any, Sequence[Result]], None]:
    def draw(axes: Any, results: Sequence[Result]) -> None:
        load = results[-1].load
        at_load = [result for result in results if result.load == load]
        _lines(axes, at_load, key, lambda result: result.num_modules)
        if ideals:
            _ideals(axes, at_load, lambda result: result.num_modules)
        axes.set(xlabel="decode modules", ylabel=label, title=f"{title} at {load.title}", ylim=(0, None))

    return draw


def _lines(axes: Any, results: Sequence[Result], key: str, x_of: Callable[[Result], float]) -> None:
    for colour, name in zip(COLOURS, dict.fromkeys(result.system for result in results), strict=False):
        points = [
            (x_of(result), result.figures[key]) for result in results if result.system == name and result.figures[key]
        ]
        if not points:
            continue
        xs = [x for x, _ in points]
        axes.plot(xs, [spread.median for _, spread in points if spread], "o-", color=colour, label=name)
        lows, highs = ([getattr(spread, end) for _, spread in points if spread] for end in ("low", "high"))
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.15, linewidth=0)


def _ideals(axes: Any, results: Sequence[Result], x_of: Callable[[Result], float]) -> None:
    first = results[0].system
    ours = [result for result in results if result.system == first]
    for key, style, label in (
        ("ideal_shared_ratio", "k_--", "ideal, one shared cache"),
        ("ideal_own_ratio", "k_:", "ideal, a cache per module"),
    ):
        points = [(x_of(result), result.median(key)) for result in ours if result.median(key) is not None]
        axes.plot([x for x, _ in points], [y for _, y in points], style, label=label, linewidth=1)


def _kv_over_time(axes: Any, results: Sequence[Result]) -> None:
    """The first repeat, at the highest load."""
    load = results[-1].load
    for colour, result in zip(COLOURS, (result for result in results if result.load == load), strict=False):
        samples = result.runs[0].record.kv
        if samples:
            axes.plot(
                [sample.at_s for sample in samples],
                [sample.tokens for sample in samples],
                color=colour,
                label=result.system,
            )
    axes.set(xlabel="seconds", ylabel="tokens of KV in use", title=f"KV memory at {load.title}", ylim=(0, None))


def _load_label(results: Sequence[Result]) -> str:
    return results[0].load.title.partition(" ")[2]


_PER_COUNT: dict[str, Callable[[Any, Sequence[Result]], None]] = {
    "latency-cdf": _latency_cdf,
}
_OVER_TIME: dict[str, Callable[[Any, Sequence[Result]], None]] = {
    "kv-over-time": _kv_over_time,
}
_OVER_LOAD: dict[str, Callable[[Any, Sequence[Result]], None]] = {
    "p95-over-load": _over_load("latency_p95_s", "End-to-end p95", "seconds"),
    "throughput-over-load": _over_load("output_tokens_per_s", "Throughput", "output tokens/s"),
    "hit-ratio-over-load": _over_load("hit_ratio", "Prefix hit ratio", "share of prompt tokens", ideals=True),
}
_OVER_COUNT: dict[str, Callable[[Any, Sequence[Result]], None]] = {
    "hit-ratio-over-modules": _over_modules("hit_ratio", "Prefix hit ratio", "share of prompt tokens", ideals=True),
    "p95-over-modules": _over_modules("latency_p95_s", "End-to-end p95", "seconds"),
    "kv-peak-over-modules": _over_modules("kv_peak_tokens", "KV peak", "tokens of KV"),
}
