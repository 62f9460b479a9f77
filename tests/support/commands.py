"""The command line in a process of its own."""

import subprocess
import sys


def run_prefillshare(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`prefillshare` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "prefillshare", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_eval(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`prefillshare eval` with these arguments."""
    return run_prefillshare("eval", *arguments)
