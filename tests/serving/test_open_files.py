"""The limit of open files, in a process of its own, and what works beyond that of select()."""

import fcntl
import os
import resource
import subprocess
import sys

import pytest

from prefillshare.evaluation.sandbox import run_function
from prefillshare.open_files import is_readable, raise_limit

CODE = """
import resource, subprocess, sys
from prefillshare.open_files import raise_limit
resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))
print(raise_limit(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
print(subprocess.run(["sh", "-c", "ulimit -Sn"], capture_output=True, text=True).stdout.strip())
"""


@pytest.mark.parametrize(("soft", "hard"), [(64, 512), (512, 512)])
def test_it_is_raised_to_what_is_allowed_for_this_process_and_its_children(soft: int, hard: int) -> None:
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] >= hard
    command = [sys.executable, "-c", CODE.format(soft=soft, hard=hard)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(hard)] * 3


@pytest.mark.parametrize(("hard", "is_short"), [(64, True), (255, True), (256, False)])
def test_a_limit_that_leaves_nothing_for_calls_is_told_with_the_fix(hard: int, is_short: bool) -> None:
    code = (
        "import resource; from prefillshare.open_files import find_shortage; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard})); print(find_shortage())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (f"open files is {hard}:" in said and "ulimit -Hn" in said) if is_short else said == "None\n"


def test_waiting_works_above_the_last_descriptor_of_select() -> None:
    raise_limit()
    reading, writing = os.pipe()
    high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1500)
    try:
        assert not is_readable(high, 0.01)
        os.write(writing, b"1")
        assert is_readable(high, 5.0)
        os.read(high, 1)
        os.close(writing)
        assert is_readable(high, 5.0)  # the end
    finally:
        os.close(high)
        os.close(reading)


def test_the_sandbox_runs_in_a_process_with_many_open_files() -> None:
    raise_limit()
    with open(os.devnull) as file:
        held = [os.dup(file.fileno()) for _ in range(1100)]
    try:
        assert run_function("def f(x):\n    return x + 1", "f", [1]).values == (2,)
    finally:
        for descriptor in held:
            os.close(descriptor)
