"""Commands whose streams are closed, or whose reader leaves, end as ever: no fault of ours, no traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PREFILLSHARE = f"{sys.executable} -m prefillshare"


def run_in_shell(line: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A line for a shell, in an empty folder of a user whom nothing runs for."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line.replace("prefillshare", PREFILLSHARE, 1)],
        env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), "COLUMNS": "40"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("prefillshare ps <&-", 0, "no deployment is running"),
        ("prefillshare ps >&-", 0, "no deployment is running"),
        ("prefillshare ps 2>&-", 0, ""),
        ("prefillshare ps --json >&- 2>&- <&-", 0, ""),
        ("prefillshare --help >&-", 0, ""),
        ("prefillshare schema >&-", 0, ""),
        ("prefillshare init <&-", 2, "there is no base: add --base"),
        ("prefillshare convert <&-", 2, "error: "),
        ("prefillshare chat --url http://127.0.0.1:9 <&-", 5, "no server answers at http://127.0.0.1:9"),
        ("prefillshare top <&-", 2, "the dashboard needs a terminal"),
        ("prefillshare store ls >&-", 0, ""),
    ],
)
def test_closed_streams_are_empty_ones(tmp_path: Path, line: str, code: int, said: str) -> None:
    done = run_in_shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "internal error" not in done.stderr + done.stdout


@pytest.mark.parametrize("line", ["schema", "--help", "launch --help", "store --help"])
def test_a_reader_that_leaves_ends_the_command_without_a_word(tmp_path: Path, line: str) -> None:
    done = run_in_shell(f"prefillshare {line} | head -1", tmp_path)
    assert len(done.stdout.splitlines()) == 1
    assert "Traceback" not in done.stderr
    assert "Broken pipe" not in done.stderr
    # 0 where all was written before the reader left, else 1.
    assert done.returncode in (0, 1)
