"""The report: a table per task, what came of the goals, the curve over the sharing ratio."""

import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.accuracy.plan import Recipe
from benchmarks.accuracy.store import Store
from prefillshare.tiny.language.tasks import TaskName

MOST_BELOW = 1.0
"""Points that a cache-conditioned module may be below ordinary fine-tuning."""
LEAST_LOSS = 15.0
"""Points that naive sharing is expected to lose."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of training, and of decoding."""

    label: str
    """Its name in the table."""
    trained: str
    """The store's name of the training."""
    ratio: float
    """Sharing ratio."""


OWN = Row(label="Full-FT: ordinary, all weights, own KV", trained="full-ft", ratio=0.0)
FULL = Row(label="PrefillShare, all weights, shared KV", trained="full", ratio=1.0)
LORA = Row(label="PrefillShare, LoRA, shared KV", trained="lora", ratio=1.0)
ICARUS = Row(label="PrefillShare, ICaRus, all KV the base's", trained="icarus", ratio=1.0)
NAIVE = Row(label="naive sharing: Full-FT over the base's KV", trained="full-ft", ratio=1.0)
BASE = Row(label="base alone", trained="base", ratio=1.0)
ROWS = (BASE, OWN, FULL, LORA, ICARUS, NAIVE)
GOALS = ((FULL, -MOST_BELOW), (LORA, -MOST_BELOW), (ICARUS, -MOST_BELOW), (NAIVE, -LEAST_LOSS))
CURVES = (("PrefillShare, all weights", "full"), ("naive sharing", "full-ft"))
COSTS = (
    ("Full-FT", "full-ft"),
    ("PrefillShare, all weights", "full"),
    ("PrefillShare, LoRA", "lora"),
    ("PrefillShare, ICaRus", "icarus"),
)


def write_report(recipe: Recipe, store: Store, out: Path) -> None:
    """Effects: writes accuracy.md and accuracy.svg beside the results."""
    _plot(recipe, store, out / "accuracy.svg")
    lines = [
        "# Accuracy: cache-conditioned fine-tuning, ordinary fine-tuning, naive sharing",
        "",
        *_origin(recipe, store),
        "",
        *_table(recipe, store),
        "",
        *_verdicts(recipe, store),
        "",
        "## Sharing ratio",
        "",
        "Part of each prompt whose KV is the base's; the module computes the rest of it itself. Mean over seeds.",
        "",
        *_curve_table(recipe, store),
        "",
        "![accuracy over the sharing ratio](accuracy.svg)",
        "",
        "## Cost",
        "",
        *_costs(recipe, store),
        "",
        "Every training and measurement, with its interval: [accuracy.json](accuracy.json).",
        "",
    ]
    (out / "accuracy.md").write_text("\n".join(lines), encoding="utf-8")


def _points(store: Store, task: TaskName, trained: str, ratio: float) -> dict[int | None, float]:
    """Accuracy by seed, in percent."""
    return {
        entry["seed"]: 100 * entry["num_right"] / entry["num_problems"]
        for entry in store.accuracies.values()
        if (entry["task"], entry["trained"], entry["ratio"]) == (task, trained, ratio)
    }


def _origin(recipe: Recipe, store: Store) -> Iterator[str]:
    seeds = {training["seed"] for training in store.trainings.values()}
    groups = (store.trainings, store.accuracies)
    hours = sum(entry["seconds"] for group in groups for entry in group.values()) / 3600
    machine = store.machine
    yield (
        f"`make bench-accuracy`, as of {machine['date']}: {machine['architecture']}, {machine['num_cores']} cores, no "
        f"GPU, threads: {machine['num_threads']}, Python {machine['python']}, PyTorch {machine['torch']}; "
        f"{len(store.trainings)} trainings with {len(seeds)} of {len(recipe.seeds)} seeds and {len(store.accuracies)} "
        f"measurements in {hours:.1f} hours of CPU time."
    )
    yield ""
    conversations = ", ".join(f"{recipe.num_conversations[task]:,} ({task})" for task in recipe.tasks)
    yield (
        f"Tiny family, float32. Conversations per training: {conversations}; {recipe.batch} per step, "
        f"{recipe.epochs:g} epochs, AdamW, cosine schedule, peak learning rate {recipe.full_rate:g} (all weights) and "
        f"{recipe.lora_rate:g} (LoRA of rank {recipe.rank}). All trainings of a task and seed see the same data in the "
        f"same order. {recipe.num_problems} held-out problems per task, greedy, by the reference computation. "
        "How the settings were chosen: [accuracy-tuning.md](accuracy-tuning.md)."
    )


def _table(recipe: Recipe, store: Store) -> Iterator[str]:
    yield "| mean over seeds (lowest to highest), % | " + " | ".join(f"tiny-{task}" for task in recipe.tasks) + " |"
    yield "|---" * (1 + len(recipe.tasks)) + "|"
    for row in ROWS:
        num_seeds = 1 if row is BASE else len(recipe.seeds)
        cells = [_cell(_points(store, task, row.trained, row.ratio).values(), num_seeds) for task in recipe.tasks]
        yield f"| {row.label} | {' | '.join(cells)} |"


def _cell(points: Collection[float], num_seeds: int) -> str:
    if not points:
        return "not yet"
    if len(points) < num_seeds:
        return f"{statistics.mean(points):.1f} ({len(points)} of {num_seeds} seeds)"
    return f"{statistics.mean(points):.1f} ({min(points):.1f} to {max(points):.1f})"


def _verdicts(recipe: Recipe, store: Store) -> Iterator[str]:
    yield f"Goals: PrefillShare within {MOST_BELOW:g} point of Full-FT, naive sharing at least {LEAST_LOSS:g} below it."
    yield ""
    yield "| points above Full-FT, seed by seed | mean (lowest to highest) | goal |"
    yield "|---|---|---|"
    for task in recipe.tasks:
        for row, goal in GOALS:
            if differences := _differences(store, task, row):
                yield _verdict(f"tiny-{task}, {row.label}", differences, goal, is_loss_wanted=row is NAIVE)


def _differences(store: Store, task: TaskName, row: Row) -> list[float]:
    """Points above Full-FT of each seed that both were measured with."""
    own, found = (_points(store, task, way.trained, way.ratio) for way in (OWN, row))
    return [found[seed] - own[seed] for seed in own if seed in found]


def _verdict(label: str, differences: Sequence[float], goal: float, *, is_loss_wanted: bool) -> str:
    # Accuracies are fractions of small counts: a difference of exactly one point must not miss by a rounding error.
    mean = round(statistics.mean(differences), 6)
    is_met = mean <= goal if is_loss_wanted else mean >= goal
    met = "met" if is_met else "**missed**"
    return f"| {label} | {mean:+.1f} ({min(differences):+.1f} to {max(differences):+.1f}) | {met} |"


def _costs(recipe: Recipe, store: Store) -> Iterator[str]:
    yield "| CPU seconds per training, mean over seeds | " + " | ".join(f"tiny-{task}" for task in recipe.tasks) + " |"
    yield "|---" * (1 + len(recipe.tasks)) + "|"
    for label, trained in COSTS:
        cells = [_mean_seconds(store, task, trained) for task in recipe.tasks]
        yield f"| {label} | {' | '.join(cells)} |"


def _mean_seconds(store: Store, task: TaskName, trained: str) -> str:
    seconds = [
        training["seconds"]
        for training in store.trainings.values()
        if (training["task"], training["trained"]) == (task, trained)
    ]
    return f"{statistics.mean(seconds):.0f}" if seconds else "not yet"


def _curve_table(recipe: Recipe, store: Store) -> Iterator[str]:
    yield "| | " + " | ".join(f"{ratio:.0%}" for ratio in recipe.ratios) + " |"
    yield "|---" * (1 + len(recipe.ratios)) + "|"
    for task in recipe.tasks:
        for label, trained in CURVES:
            points = [_points(store, task, trained, ratio) for ratio in recipe.ratios]
            cells = [_curve_cell(accuracies.values(), len(recipe.seeds)) for accuracies in points]
            yield f"| tiny-{task}, {label} | {' | '.join(cells)} |"


def _curve_cell(points: Collection[float], num_seeds: int) -> str:
    if not points:
        return "not yet"
    missing = f" ({len(points)} of {num_seeds} seeds)" if len(points) < num_seeds else ""
    return f"{statistics.mean(points):.1f}{missing}"


def _plot(recipe: Recipe, store: Store, file: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        1, len(recipe.tasks), figsize=(3.4 * len(recipe.tasks), 3.4), sharey=True, layout="constrained", squeeze=False
    )
    for plot, task in zip(axes[0], recipe.tasks, strict=True):
        for (label, trained), colour in zip(CURVES, ("#1f77b4", "#d62728"), strict=True):
            _draw_curve(plot, recipe, store, (task, trained), {"label": label, "color": colour})
        plot.set(title=f"tiny-{task}", xlabel="sharing ratio, %", ylim=(-3, 103))
        plot.grid(alpha=0.3)
    axes[0][0].set_ylabel("accuracy, %")
    axes[0][0].legend(fontsize="small", loc="lower left")
    # A file that only changes when its content does.
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _draw_curve(axes: Any, recipe: Recipe, store: Store, of: tuple[TaskName, str], style: dict[str, str]) -> None:
    """Mean over seeds as a line, lowest to highest as a band."""
    measured = [(ratio, list(_points(store, *of, ratio).values())) for ratio in recipe.ratios]
    measured = [(ratio, points) for ratio, points in measured if points]
    ratios = [100 * ratio for ratio, _ in measured]
    axes.plot(ratios, [statistics.mean(points) for _, points in measured], marker="o", **style)
    low, high = ([f(points) for _, points in measured] for f in (min, max))
    axes.fill_between(ratios, low, high, alpha=0.15, color=style["color"], linewidth=0)
