"""Measure the choice of workers: `python -m benchmarks.choice [--workers 8+8,256+256,800+200] [--beside FOLDER]`.

The router's own parts choose, reserve, give back and learn, as for calls over HTTP but without it. Sessions of agents
ask: their prompts begin with their tenant's system prompt and grow by what was said, module after module. Prefill
workers compute in simulated time. What is measured is CPU time, so that other work on the machine matters little.

`calls/s` are choices alone, `whole` with all that a call does besides: giving back, learning. Memory of the index is
what `tracemalloc` sees, in bytes per prefix (node), whole and without the text. The rest is milliseconds of CPU for one
worker each; `state` is `held_bytes` of all workers.

With `--beside FOLDER`, another working copy is measured as well, in turns.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

NUM_ROUNDS = 3
COLUMNS = {
    "calls_per_s": "calls/s",
    "whole_per_s": "whole",
    "nodes": "prefixes",
    "bytes_per_node": "bytes per prefix",
    "overhead_per_node": "without text",
    "forget_ms": "forget ms",
    "drop_ms": "drop ms",
    "held_ms": "held_bytes ms",
    "state_ms": "state ms",
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.choice")
    parser.add_argument("--workers", default="8+8,64+64,256+256,800+200", help="prefill and decode workers")
    parser.add_argument("--calls", type=int, default=20_000, help="calls per measurement")
    parser.add_argument("--policy", default="prefix_aware", help="how the prefill worker is chosen")
    parser.add_argument("--beside", type=Path, help="another working copy, to measure as well")
    asked = parser.parse_args()
    print("| code | workers |", " | ".join(COLUMNS.values()), "|")
    print("|---|---|" + "---:|" * len(COLUMNS))
    here = Path(__file__).parents[2]
    folders = [here, *([asked.beside.resolve()] if asked.beside else [])]
    for workers in asked.workers.split(","):
        found: dict[Path, list[dict[str, float]]] = {folder: [] for folder in folders}
        for _ in range(NUM_ROUNDS):
            for folder in folders:
                found[folder].append(measure(folder, workers, asked.calls, asked.policy))
        for folder, rounds in found.items():
            # The best round: whatever else ran on the machine can only have slowed a round down.
            best = [max(r[c] for r in rounds) if "per_s" in c else min(r[c] for r in rounds) for c in COLUMNS]
            name = "this" if folder == here else "beside"
            print(
                f"| {name} | {workers} |",
                " | ".join(f"{value:,.3g}" if value < 10 else f"{value:,.0f}" for value in best),
                "|",
            )


def measure(folder: Path, workers: str, num_calls: int, policy: str) -> dict[str, float]:
    """Measure the code in `folder`, in a process of its own."""
    play = Path(__file__).parent / "play.py"
    ran = subprocess.run(
        [sys.executable, str(play), workers, str(num_calls), policy],
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "0"},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode != 0:
        sys.exit(f"measuring {folder} failed:\n{ran.stderr}")
    figures: dict[str, float] = json.loads(ran.stdout)
    return figures


if __name__ == "__main__":
    main()
