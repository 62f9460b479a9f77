"""What people ask for at every turn, help and completion, waits for no library that only some commands need."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from prefillshare.cli.app import app

HEAVY = (
    *("torch", "transformers", "sglang", "peft", "ray", "numpy", "safetensors", "tokenizers", "huggingface_hub"),
    *("textual", "rich", "httpx", "aiohttp", "yaml", "tomlkit", "prompt_toolkit", "matplotlib"),
)
PROGRAM = f"""
import json, sys
try:
    from prefillshare.cli.main import main
    sys.argv[0] = "prefillshare"
    main()
finally:
    print(json.dumps([name for name in {HEAVY!r} if sys.modules.get(name)]), file=sys.stderr)
"""
ROOT = typer.main.get_command(app)


def list_commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command by its words, groups included."""
    inner = getattr(command, "commands", {}).items()
    return [words, *(found for name, each in inner for found in list_commands(each, (*words, name)))]


def run(*words: str, **variables: str) -> tuple[str, list[str]]:
    """What a command prints, and the heavy libraries that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, "XDG_STATE_HOME": "/nowhere", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    *said, heavy = done.stderr.splitlines()
    assert not said, done.stderr
    return done.stdout, json.loads(heavy)


@pytest.mark.parametrize("words", list_commands(ROOT), ids=" ".join)
def test_help_imports_nothing_heavy(words: tuple[str, ...]) -> None:
    printed, heavy = run(*words, "--help")
    assert printed.startswith(f"Usage: {' '.join(('prefillshare', *words))} ")
    assert heavy == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("prefillshare ", "launch"),
        ("prefillshare launch --", "--detach"),
        ("prefillshare launch --set engine.pa", "engine.page_size="),
        ("prefillshare bench react --set engine.pa", "engine.page_size="),
        ("prefillshare ask ", ""),
        ("prefillshare logs ", ""),
    ],
)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_imports_nothing_heavy(shell: str, line: str, expected: str) -> None:
    variables = {"_PREFILLSHARE_COMPLETE": f"complete_{shell}"}
    words = line.split(" ")
    if shell == "bash":
        variables |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    else:
        variables |= {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    printed, heavy = run(**variables)
    assert expected in printed
    assert heavy == []


def test_the_list_of_commands_is_whole() -> None:
    """The test above would not see a command that it does not know."""
    commands = {words[0] for words in list_commands(ROOT) if words}
    files = {file.stem for file in (Path(__file__).parents[2] / "prefillshare/cli/commands").glob("[a-z]*.py")}
    assert files - commands == {"evaluate", "modules"}
    assert {"eval", "add", "remove", "reload", "alias"} <= commands
