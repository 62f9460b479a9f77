"""The limit of open files, in a process of its own."""

import resource
import subprocess
import sys

import pytest

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
