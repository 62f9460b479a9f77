"""The figures as JSON and as Markdown."""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

GOALS = {"added p50": "at most 1.1", "added p99": "at most 0.5", "saturated calls/s": "at least 1.1"}
"""What the router's figures should be, as multiples of smg's of the same run."""
_TITLES = {"direct": "direct to the decode worker", "router": "prefillshare router", "smg": "smg"}


def write_report(directory: Path, results: dict[str, Any], *, load: dict[str, Any], machine: str) -> None:
    """Write router.json and router.md into `directory` and print the table."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "command": _command(sys.argv[1:]),
        "machine": machine,
        "load": load,
        "results": results,
        "beside_smg": compare(results) if "smg" in results else None,
    }
    (directory / "router.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    text = _markdown(content)
    (directory / "router.md").write_text(text, encoding="utf-8")
    print(text, end="")


def compare(results: dict[str, Any]) -> dict[str, float]:
    """Return the router's figures as multiples of smg's."""
    ours, theirs = results["router"], results["smg"]
    added = {
        f"added {name}": ours["added_first_byte_ms"][name] / max(theirs["added_first_byte_ms"][name], 0.001)
        for name in ("p50", "p99")
    }
    rates = {"saturated calls/s": ours["saturated_calls_per_s"] / theirs["saturated_calls_per_s"]}
    return {name: round(ratio, 3) for name, ratio in (added | rates).items()}


def _command(arguments: list[str]) -> str:
    """Return the command line without what only this machine knows: where smg lies."""
    shown = ["PATH" if before == "--smg" else given for before, given in pairwise(["", *arguments])]
    return " ".join(["python -m benchmarks.router", *shown])


def _markdown(content: dict[str, Any]) -> str:
    load, results = content["load"], content["results"]
    lines = [
        "# Router overhead",
        "",
        f"`{content['command']}` on {content['machine']}.",
        "",
        f"Streaming chat of 20 events; open loop (Poisson) at {load['rate']:g} calls/s for {load['duration_s']:g} s, "
        f"then {load['num_clients']} clients that call without pause for {load['saturation_s']:g} s. The router under "
        "test runs on one core; workers that answer at once and the clients share the other. Milliseconds to the first "
        "byte, from the moment at which a call was due; added: above direct calls at the same percentile.",
        "",
        "| target | p50 | p99 | added p50 | added p99 | errors | cores used | saturated calls/s | cores used | MiB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *[_row(name, result) for name, result in results.items()],
        "",
        "Where a target uses less than its core at saturation, workers and clients on the other core were the limit.",
    ]
    if content["beside_smg"]:
        ratios = [f"{name} {ratio:.2f}x (goal: {GOALS[name]})" for name, ratio in content["beside_smg"].items()]
        lines += ["", f"The router beside {results['smg']['version']}: {', '.join(ratios)}."]
    return "\n".join(lines) + "\n"


def _row(name: str, result: dict[str, Any]) -> str:
    first, extra = result["first_byte_ms"], result["added_first_byte_ms"]
    numbers = [first["p50"], first["p99"], extra["p50"], extra["p99"], result["errors"]]
    numbers += [result["cores_used_open_loop"], result["saturated_calls_per_s"], result["cores_used_saturated"]]
    return " | ".join([f"| {_TITLES[name]}", *map(str, numbers), f"{result['rss_mib']} |"])
