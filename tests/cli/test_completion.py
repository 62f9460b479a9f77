"""Completion in a real shell: commands, options, names of what runs here, keys; and every command fits 80 columns."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prefillshare.serving.run.record import ProcessRecord, record_of, write_record

PROGRAM = Path(sys.executable).with_name("prefillshare")
ASK = """
eval "$(_PREFILLSHARE_COMPLETE=source_bash prefillshare)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_prefillshare_completion prefillshare
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(autouse=True)
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A deployment that this process runs, as far as its record says."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    url = "http://127.0.0.1:1"
    router = ProcessRecord(
        name="router", role="router", module=None, pid=None, url=url, state="running", log="/router.log"
    )
    write_record(record_of("mine", "disaggregated", url, ("math", "code"), [router], log=Path("/launcher.log")))


def complete(*words: str) -> list[str]:
    done = subprocess.run(
        [str(shutil.which("bash")), "-c", ASK, "bash", "prefillshare", *words],
        env={**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert not done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("st",), ["stop", "store"]),
        (("launch", "--deta"), ["--detach"]),
        (("ask", "ma"), ["math"]),
        (("stop", ""), ["mine"]),
        (("logs", ""), ["launcher", "router"]),
        (("top", "--deployment", "m"), ["mine"]),
        (("launch", "x.toml", "--set", "engine.page"), ["engine.page_size="]),
    ],
)
def test_bash_completes(words: tuple[str, ...], expected: list[str]) -> None:
    assert complete(*words) == expected


def test_every_command_is_told_in_one_whole_line() -> None:
    done = subprocess.run(
        [str(PROGRAM), "--help"],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    lines = done.stdout.partition("Commands:")[2].split("\n")[1:]
    assert [line for line in lines if line and (not line.endswith(".") or line.endswith("...") or len(line) > 80)] == []
