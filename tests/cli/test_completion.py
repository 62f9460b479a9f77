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
eval "$(prefillshare --show-completion bash)"
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


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prefillshare st", {"stop", "store"}),
        ("prefillshare ask ma", {"math"}),
        ("prefillshare stop ", {"mine"}),
        ("prefillshare logs ro", {"router"}),
        ("prefillshare top --url ", {"http://127.0.0.1:1"}),
        ("prefillshare launch x.toml --set engine.page", {"engine.page_size="}),
        ("prefillshare bench react --set engine.page", {"engine.page_size="}),
        ("prefillshare launch mi", set()),
    ],
)
def test_zsh_and_fish_are_told_the_same(line: str, expected: set[str]) -> None:
    """Their scripts ask for lines of a value and its description, and let the shell find files where there is none."""
    variables = {
        "_PREFILLSHARE_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": line,
    }
    done = subprocess.run(
        [str(PROGRAM)], env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {told.partition("\t")[0] for told in done.stdout.splitlines() if told} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script_where_it_looks(shell: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(PROGRAM), "--install-completion", shell],
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    installed = {
        "bash": ".bash_completions/prefillshare.sh",
        "zsh": ".zfunc/_prefillshare",
        "fish": ".config/fish/completions/prefillshare.fish",
    }[shell]
    assert done.stdout.startswith(f"{shell} completion installed in {tmp_path / installed}")
    script = (tmp_path / installed).read_text()
    # Our own, in which no value is followed by a space, and a zsh answers the first Tab.
    told = {"bash": "compopt -o nospace", "zsh": "zsh_eval_context", "fish": "__fish_complete_path"}[shell]
    assert told in script
    assert "%" not in script.replace("%%$", "").replace("%$", "").replace("'%s\\n'", "")


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
