"""grow.md and its two plots: accuracy of each task in the family, alone and in one module for all, and what came of the
goals."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prefillshare.grow.plot import draw

MOST_BELOW = 0.5
LEAST_GAIN = 3.0
MOST_PARAMETERS = 0.4
FEW = 100


def write_report(results: Mapping[str, Any], out: Path) -> None:
    """Effects: writes grow.md, grow.svg and grow-accuracy.svg into `out`."""
    done = {name: entry for name, entry in results["tasks"].items() if "grown" in entry and "alone" in entry}
    if results["rows"]:
        draw(results["rows"], results["total"], out / "grow.svg")
    if done:
        _draw_accuracies(done, _together(results), out / "grow-accuracy.svg")
    text = "\n".join([*_head(results), *_table(results, done), "", *_goals(results, done), *_growth(results), ""])
    (out / "grow.md").write_text(text, encoding="utf-8")


def _head(results: Mapping[str, Any]) -> list[str]:
    num_rows = sum(entry["num_conversations"] for entry in results["tasks"].values())
    return [
        "# A family that grows, on the tiny base",
        "",
        f"`make bench-grow`, {results['machine']}, one thread, seed {results['seed']}: one run. "
        f"{num_rows:,} conversations in {len(results['tasks'])} tasks, a tenth of each held out for the decisions of "
        f"the search; {results['num_problems']} other questions per task, greedy, by the reference computation, right "
        "when every letter is; so two accuracies of one row may differ by 5 points by chance. Alone: rank 32 by the "
        "same loop, with the same data and as many passes (the first task: more), the best state by the same held-out "
        "conversations. One module for all: the same, on all conversations at once. `route`, `brief`, `plan` and "
        "`short` ask what `tool`, `code` and `math` ask and want another form of answer, so that there is something to "
        "reuse; `rank` shares nothing with the others. No setting was chosen by these questions.",
        "",
    ]


def _table(results: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    joint = _together(results)
    lines = [
        "| task | conversations | grown, % | alone, % | difference | one module for all, % | new | reused | split |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    rows = {row["task"]: row for row in results["rows"]}
    for name, entry in done.items():
        grown, alone, row = 100 * entry["grown"]["accuracy"], 100 * entry["alone"]["accuracy"], rows[name]
        together = f"{100 * joint[name]:.1f}" if name in joint else "not measured"
        lines.append(
            f"| {name} | {entry['num_conversations']} | {grown:.1f} | {alone:.1f} | {grown - alone:+.1f} "
            f"| {together} | {row['new']} | {row['reused']} | {row['split']} |"
        )
    return lines


def _goals(results: Mapping[str, Any], done: Mapping[str, Any]) -> list[str]:
    if not done:
        return []
    gains = {name: 100 * (entry["grown"]["accuracy"] - entry["alone"]["accuracy"]) for name, entry in done.items()}
    later = [gains[name] for name in list(done)[1:] if done[name]["num_conversations"] <= FEW]
    mean, few, ratio = statistics.mean(gains.values()), _mean(later), results["total"]["ratio"]
    return [
        "| goal | found | |",
        "|---|---|---|",
        f"| mean difference at least -{MOST_BELOW} points | {mean:+.1f} | {_word(mean >= -MOST_BELOW)} |",
        f"| at least +{LEAST_GAIN:g} points where a later task has {FEW} conversations | "
        f"{'not measured' if few is None else f'{few:+.1f} (mean of {len(later)})'} | "
        f"{'' if few is None else _word(few >= LEAST_GAIN)} |",
        f"| at most {MOST_PARAMETERS:g}x of the parameters of separate rank 32 | {ratio:.2f}x | "
        f"{_word(ratio <= MOST_PARAMETERS)} |",
        "| earlier modules bit for bit, after each task | their hashes, checked by every run | met |",
        "",
    ]


def _together(results: Mapping[str, Any]) -> Mapping[str, float]:
    joint = results["joint"]
    return joint["accuracies"] if joint else {}


def _growth(results: Mapping[str, Any]) -> list[str]:
    lines = ["| task | held-out loss: base | selected | retrained | at the end | reused from | CPU seconds |"]
    lines.append("|---|---|---|---|---|---|---|")
    for row in results["rows"]:
        entry = results["tasks"].get(row["task"], {}).get("grown")
        if entry is None:
            continue
        losses = entry["losses"]
        parts = (f"{losses[key]:.3f}" if key in losses else "" for key in ("base", "select", "retrain", "prune"))
        origins = ", ".join(f"{name} {count}" for name, count in row["reused_from"].items())
        lines.append(f"| {row['task']} | {' | '.join(parts)} | {origins} | {entry['seconds']:.0f} |")
    return [*lines, "", "![accuracy](grow-accuracy.svg)", "", "![units and parameters](grow.svg)"]


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


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _word(is_met: bool) -> str:
    return "met" if is_met else "missed"
