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
