"""All tests in two lanes at once: those that need engines, and beside them those that do not.

    python -m tests.support.lanes [pytest's arguments]

An engine test waits for one process after the other and leaves most of a second core idle. Neither lane takes a port of
the other: `free_port` holds what it hands out against all processes. With `-m` among the arguments, there is one lane.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

PYTEST = (sys.executable, "-m", "pytest")
# Two runs must not write one cache; more threads than one would only take the engines' core.
BESIDE = ("-m", "not engine", "-o", "cache_dir=.pytest_cache/beside")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
NOTHING_COLLECTED = 5


def run(arguments: Sequence[str]) -> int:
    """Run both lanes; the second one's report follows the first's. Returns the exit code of `make test`."""
    if any(argument.startswith("-m") for argument in arguments):
        return subprocess.call([*PYTEST, *arguments])
    with tempfile.TemporaryFile("w+") as report:
        beside = subprocess.Popen(
            [*PYTEST, *BESIDE, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=report,
            stderr=subprocess.STDOUT,
            env={**os.environ, **ONE_THREAD},
        )
        try:
            engines = subprocess.call([*PYTEST, "-m", "engine", *arguments])
        finally:
            others = beside.wait()
            report.seek(0)
            shutil.copyfileobj(report, sys.stdout)
    return worse(engines, others)


def worse(first: int, second: int) -> int:
    """The exit code of two lanes: one of them may have nothing to do, not both."""
    codes = {first, second} - {NOTHING_COLLECTED}
    return max(codes, default=NOTHING_COLLECTED)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
