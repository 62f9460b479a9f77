"""Tests in two lanes at once, on two cores: all of them, or those that are quick.

    python -m tests.support.lanes [pytest's arguments]         # most of those with an engine, and the others beside
    python -m tests.support.lanes --fast [pytest's arguments]  # only what takes little, which no engine does

What takes minutes by itself has the mark `long`, and is in neither: `make test-long` runs it.

An engine test waits for one process after the other and leaves most of a second core idle; so do tests of the router
and of the dashboard. A lane that is through with its own tests takes files that the other has not begun
(`tests/support/parts.py`). Neither lane takes a port of the other: `free_port` holds what it hands out against all
processes. With `-m` among the arguments, or with arguments for the quick ones, there is one lane.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from tests.support.parts import LANES

Lane = tuple[str, ...]
"""What pytest is told so that it takes the tests of this lane."""

PYTEST = (sys.executable, "-m", "pytest")
ALL: Lane = ("-m", "not long", "-o", "console_output_style=classic")
"""Of a part nobody knows how much it is."""
QUICK: Lane = ("-m", "not engine and not slow and not long")
WAITING = ("tests/cli", "tests/frontend", "tests/routing", "tests/tui")
FAST: tuple[Lane, Lane] = ((*QUICK, *WAITING), (*QUICK, *(f"--ignore={folder}" for folder in WAITING)))
# Two runs must not write one cache.
BESIDE: Lane = ("-o", "cache_dir=.pytest_cache/beside")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
"""Threads of one computation spin while they wait for each other. With more of them than free cores, a reference that
takes 15 s by one thread took 338 s by two."""
NOTHING_COLLECTED = 5


def main(arguments: Sequence[str]) -> int:
    """Run what is asked for; return the exit code of `make test` or `make test-fast`."""
    if arguments[:1] == ["--fast"]:
        return _run_alone([*QUICK, *arguments[1:]]) if arguments[1:] else _run_both(FAST, ())
    if any(argument.startswith("-m") for argument in arguments):
        return _run_alone(arguments)
    with tempfile.TemporaryDirectory() as taken:
        first, second = ((*ALL, f"--lane={lane}", f"--taken={taken}") for lane in LANES)
        return _run_both((first, second), arguments)


def _run_alone(arguments: Sequence[str]) -> int:
    return subprocess.call([*PYTEST, *arguments], env=ENVIRONMENT)


def _run_both(lanes: tuple[Lane, Lane], arguments: Sequence[str]) -> int:
    """The second lane's report follows the first's."""
    with tempfile.TemporaryFile("w+") as report:
        beside = subprocess.Popen(
            [*PYTEST, *lanes[1], *BESIDE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=subprocess.STDOUT,
            env=ENVIRONMENT,
        )
        try:
            first = _run_alone([*lanes[0], *arguments])
        finally:
            second = beside.wait()
            report.seek(0)
            shutil.copyfileobj(report, sys.stdout)
    return worse(first, second)


def worse(first: int, second: int) -> int:
    """The exit code of two lanes: one of them may have nothing to do, not both."""
    codes = {first, second} - {NOTHING_COLLECTED}
    return max(codes, default=NOTHING_COLLECTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
