"""Every command that the documentation shows is taken by the real command line, which parses it and runs nothing."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from prefillshare.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]
    if "prefillshare " in page.read_text(encoding="utf-8")
]
FENCE = re.compile(r"```[^\n]*\n(.*?)```", re.DOTALL)
QUOTED = re.compile(r"`prefillshare ([^`\n]+)`")
COMMENT = re.compile(r"(^|\s)#(\s.*)?$")
PROMPT = re.compile(r"^(?:[\w-]*\$ +)?(?:[A-Z_]+=\S* )*(?:exec )?prefillshare (?=[a-z-])")
COMMAND = typer.main.get_command(app)


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "API_KEY", "ADMIN_KEY", "ADMIN_KEY_FILE", "CLUSTER", "BENCH_API_KEY"):
        monkeypatch.delenv(f"PREFILLSHARE_{name}", raising=False)


def shown_in(page: Path) -> list[list[str]]:
    """The words behind `prefillshare` of each command in a block of the page."""
    found = []
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            if start := PROMPT.match(line):
                words = shlex.split(COMMENT.sub("", line[start.end() :]).replace("$'", "'"))
                found.append([word for word in words if word != "&"])
    return found


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words begin with, and the words behind it."""
    command: Any = COMMAND
    while words and hasattr(command, "commands"):
        if words[0] in command.commands:
            command, words = command.commands[words[0]], words[1:]
        elif command.name == "grow":  # `grow FAMILY` is `grow add FAMILY`
            command = command.commands["add"]
        else:
            break
    return command, words


def parse(words: list[str]) -> None:
    """Let the command take its words.

    Raises: what it says of a wrong one.
    """
    command, rest = find_command(words)
    if hasattr(command, "commands") and not (rest and rest[0].startswith("-")):
        raise LookupError(f"there is no command {rest[:1]}")
    command.make_context("prefillshare", list(rest))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_are_taken(page: Path) -> None:
    for words in shown_in(page):
        try:
            parse(words)
        except Exception as error:
            raise AssertionError(f"prefillshare {' '.join(words)}: {error}") from error


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_options_in_the_text_of_a_page_are_there(page: Path) -> None:
    for told in QUOTED.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        words = told.split()
        command, rest = find_command(words)
        if command is COMMAND and not words[0].startswith(("-", "COMMAND")) and words[0] != "...":
            raise AssertionError(f"`prefillshare {told}`: there is no command {words[0]!r}")
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        given = {word.strip("[]").partition("=")[0] for word in rest if word.strip("[]").startswith("-")}
        assert given - {"-", "--"} <= known or "--" in rest or command is COMMAND, f"`prefillshare {told}`"


def test_a_command_that_is_not_there_would_be_found() -> None:
    """The tests above can fail."""
    for words in (["launch", "--prot", "1"], ["lunch"], ["stop"], ["grow", "ls"], ["launch", "a.toml", "b.toml"]):
        with pytest.raises(Exception, match=r"."):
            parse(words)
    lines = [words for page in PAGES for words in shown_in(page)]
    assert len(lines) > 60
    assert ["launch", "mine.toml", "--set", "engine.page_size=16", "--dry-run"] in lines
