"""grow.md and its two plots: accuracy of each task in the family, alone and in one module for all, and what came of the
goals."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.grow.tasks import TASKS
from prefillshare.config.growing import Growth
from prefillshare.grow.plot import draw

MOST_BELOW = 0.5
MOST_OF_ONE = 2.0
LEAST_GAIN = 3.0
MOST_PARAMETERS = 0.4
FEW = 100
PLOTS = ("![accuracy](grow-accuracy.svg)", "", "![units and parameters](grow.svg)")


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """Effects: writes grow.md, grow.svg and grow-accuracy.svg into `out`; the plots are of the first seed."""
    runs = results["runs"]
    if runs[0]["rows"]:
        draw(runs[0]["rows"], runs[0]["total"], out / "grow.svg")
    if done := _done(runs[0]):
        _draw_accuracies(done, _together(runs[0]), out / "grow-accuracy.svg")
    text = "\n".join([*_head(results), *_goals(runs), *(line for run in runs for line in _run(run)), *PLOTS, ""])
    (out / "grow.md").write_text(text, encoding="utf-8")


def _head(results: Mapping[str, Any]) -> list[str]:
    entries = results["runs"][0]["tasks"].values()
    num_rows = sum(entry["num_conversations"] for entry in entries)
    return [
        "# A family that grows, on the tiny base",
        "",
        f"`{_command(results)}`, {results['machine']}, one thread, commit {_commits(results)}. "
        f"{num_rows:,} conversations in {len(entries)} tasks, a tenth of each held out for the decisions of the "
        f"search; {results['num_problems']} other questions per task, greedy, by the reference computation, right "
        f"when every letter is; so two accuracies of one row may differ by {_chance(results['num_problems']):.0f} "
        f"points by chance. Alone: rank {results['rank']} by the same loop, with the same data, as many passes "
        "and the same rule for when to stop: cycles of passes are repeated while the held-out loss falls, and its best "
        "state is kept. One module for all: the same, on all conversations at once. `route` and `brief` ask what "
        "`tool` asks, `plan` what `code`, `short` what `math`, and want another form of answer, so that there is "
        "something to reuse; `rank` shares nothing with the others.",
        "",
    ]


def _chance(num_problems: int) -> float:
    """Points by which two accuracies of 80 % differ in one case of six: a standard error of their difference."""
    return float(100 * (2 * 0.8 * 0.2 / num_problems) ** 0.5)


def _command(results: Mapping[str, Any]) -> str:
    names, seeds = results["tasks"], [run["seed"] for run in results["runs"]]
    options = [] if names == [task.name for task in TASKS] else ["--tasks", ",".join(names)]
    options += [] if seeds == [1] else ["--seeds", *map(str, seeds)]
    options += [] if results["max_repairs"] == Growth().max_repairs else ["--repairs", str(results["max_repairs"])]
    return f'make bench-grow ARGS="{" ".join(options)}"' if options else "make bench-grow"


def _commits(results: Mapping[str, Any]) -> str:
    """Those of all steps; a run that was killed may have gone on with another one."""
    steps = [
        step
        for run in results["runs"]
        for step in (*(entry.get(way) for entry in run["tasks"].values() for way in ("grown", "alone")), run["joint"])
    ]
    return ", ".join(dict.fromkeys(f"`{step['commit']}`" for step in steps if step))


def _done(run: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry for name, entry in run["tasks"].items() if "grown" in entry and "alone" in entry}


def _run(run: Mapping[str, Any]) -> list[str]:
    return [f"## Seed {run['seed']}", "", *_table(run, _done(run)), "", *_growth(run), ""]


def _table(run: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    joint = _together(run)
    lines = [
        "| task | conversations | grown, % | alone, % | difference | one module for all, % | new | reused | split "
        "| rank of the adapter |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {row["task"]: row for row in run["rows"]}
    for name, entry in done.items():
        grown, alone, row = 100 * entry["grown"]["accuracy"], 100 * entry["alone"]["accuracy"], rows[name]
        together = f"{100 * joint[name]:.1f}" if name in joint else "not measured"
        lines.append(
            f"| {name} | {entry['num_conversations']} | {grown:.1f} | {alone:.1f} | {grown - alone:+.1f} "
            f"| {together} | {row['new']} | {row['reused']} | {row['split']} | {row['rank']} |"
        )
    return lines


def _goals(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    gains = {(run["seed"], name): _gain(entry) for run in runs for name, entry in _done(run).items()}
    if not gains:
        return []
    later = [
        gains[run["seed"], name]
        for run in runs
        for name, entry in list(_done(run).items())[1:]
        if entry["num_conversations"] <= FEW
    ]
    mean, ratio = statistics.mean(gains.values()), max(run["total"]["ratio"] for run in runs if run["total"])
    few = statistics.mean(later) if later else None
    (_, lowest), least = min(gains.items(), key=lambda item: item[1])
    return [
        "| goal | found | |",
        "|---|---|---|",
        f"| mean difference at least -{MOST_BELOW} points | {mean:+.1f} | {_word(mean >= -MOST_BELOW)} |",
        f"| no task more than {MOST_OF_ONE:g} points below | lowest: {least:+.1f}, {lowest} | "
        f"{_word(least >= -MOST_OF_ONE)} |",
        f"| at least +{LEAST_GAIN:g} points where a later task has {FEW} conversations | "
        f"{'not measured' if few is None else f'{few:+.1f} (mean of {len(later)})'} | "
        f"{'' if few is None else _word(few >= LEAST_GAIN)} |",
        f"| at most {MOST_PARAMETERS:g}x of the parameters of separate modules | {ratio:.2f}x | "
        f"{_word(ratio <= MOST_PARAMETERS)} |",
        "| earlier modules bit for bit, after each task | their hashes, checked by every run | met |",
        "",
    ]


def _gain(entry: Mapping[str, Any]) -> float:
    # Two points below are two points below, and not 2.0000000000000018.
    return round(100 * (entry["grown"]["accuracy"] - entry["alone"]["accuracy"]), 6)


def _together(run: Mapping[str, Any]) -> Mapping[str, float]:
    joint = run["joint"]
    return joint["accuracies"] if joint else {}


def _growth(run: Mapping[str, Any]) -> list[str]:
    lines = [
        "| task | held-out loss: base | selected | retrained | at the end | alone | reused from | CPU seconds "
        "| alone |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in run["rows"]:
        entry = run["tasks"].get(row["task"], {})
        if "grown" not in entry or "alone" not in entry:
            continue
        grown, alone = entry["grown"], entry["alone"]
        losses = grown["losses"]
        parts = (f"{losses[key]:.3f}" if key in losses else "" for key in ("base", "select", "retrain", "prune"))
        origins = ", ".join(f"{name} {count}" for name, count in row["reused_from"].items())
        lines.append(
            f"| {row['task']} | {' | '.join(parts)} | {alone['losses']['prune']:.3f} | {origins} "
            f"| {grown['seconds']:.0f} | {alone['seconds']:.0f} |"
        )
    return lines


def _draw_accuracies(done: Mapping[str, Any], joint: Mapping[str, float], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    ways = {"grown": "#c2573a", "alone": "#777777", "one module for all": "#9bb8d3"}
    values = [[100 * entry[way]["accuracy"] for entry in done.values()] for way in ("grown", "alone")]
    values.append([100 * joint.get(name, 0) for name in done])
    with matplotlib.rc_context({"svg.hashsalt": "prefillshare", "svg.fonttype": "none", "font.size": 9}):
        figure, axes = pyplot.subplots(figsize=(9, 3), layout="constrained")
        for number, (way, colour) in enumerate(ways.items()):
            places = [place + 0.27 * (number - 1) for place in range(len(done))]
            axes.bar(places, values[number], width=0.25, label=way, color=colour)
        axes.set_xticks(range(len(done)), [f"{name}\n{entry['num_conversations']}" for name, entry in done.items()])
        axes.set_xlabel("task and its conversations, in the order of growing")
        axes.set_ylabel("accuracy, %")
        axes.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        figure.savefig(file, format="svg", metadata={"Date": None})
        pyplot.close(figure)


def _word(is_met: bool) -> str:
    return "met" if is_met else "missed"
