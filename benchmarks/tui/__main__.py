"""Measure the CPU that the dashboard takes: the real program in a pseudo-terminal, fed by a large deployment on paper.

Run: `python -m benchmarks.tui [--seconds N] [--workers N] [--sessions N] [--size 120x40]`, or `make bench-tui`. Every
screen is in sight for the same time. What counts is CPU time from /proc, so other work on the machine matters little.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tui.play import serve_recording
from benchmarks.tui.terminal import Terminal

GOAL_PERCENT = 10.0
SCREENS = ("Overview", "Modules", "Workers", "Sessions", "Events")
SETTLE_S = 5.0


def main() -> int:
    """Measure, print the figures and return 1 when the goal is missed."""
    options = _options()
    width, height = map(int, options.size.split("x"))
    with serve_recording(num_workers=options.workers, num_sessions=options.sessions) as url:
        argv = [sys.executable, "-m", "prefillshare", "top", "--url", url]
        with tempfile.TemporaryDirectory() as folder, Terminal(argv, width, height, Path(folder)) as terminal:
            terminal.read_until("LIVE", timeout_s=60)
            terminal.read_for(SETTLE_S)
            start_cpu_s = terminal.cpu_s()
            shares = [_measure(terminal, str(key), options.seconds / len(SCREENS)) for key in range(1, 6)]
            total = (terminal.cpu_s() - start_cpu_s) / options.seconds * 100
            memory_mib = terminal.memory_mib()
            terminal.write(b"q")
            terminal.wait(timeout_s=30)
    print(
        f"{options.workers} workers, {options.sessions} sessions, {options.size}, one look a second, "
        f"{options.seconds:.0f} s on {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    for name, share in zip(SCREENS, shares, strict=True):
        print(f"  {name:<10} {share:5.1f} % of one core")
    print(f"  all        {total:5.1f} % of one core (goal: below {GOAL_PERCENT:.0f} %), {memory_mib:.0f} MiB")
    return 0 if total < GOAL_PERCENT else 1


def _measure(terminal: Terminal, key: str, seconds: float) -> float:
    terminal.write(key.encode())
    started, cpu_s = time.monotonic(), terminal.cpu_s()
    terminal.read_for(seconds)
    return (terminal.cpu_s() - cpu_s) / (time.monotonic() - started) * 100


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tui", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="time to measure, shared by the five screens")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--sessions", type=int, default=500)
    parser.add_argument("--size", default="120x40", help="columns x rows of the terminal")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
