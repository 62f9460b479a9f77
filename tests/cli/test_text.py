"""Text as people give it: bytes that are none, marks before it, terminals that cannot show it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from prefillshare.cli.app import app
from prefillshare.cli.text import decode_text
from prefillshare.errors import ConfigError
from tests.support.random_models import make_family

LATIN = b"caf\xe9"


def _run(*arguments: str | bytes, stdin: bytes = b"", **variables: str | bytes) -> tuple[int, str, str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFILLSHARE_")}
    command = [sys.executable, "-m", "prefillshare", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, timeout=120, check=False, env={**environment, **variables}
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    ("stdin", "says", "locale"),
    [
        (LATIN, "byte 0xe9 after 3 others", "C"),
        ("2 + 2".encode("utf-16"), "byte 0xff after 0 others", "POSIX"),
        (b"\xed\xa0\x80", "byte 0xed after 0 others", "C.UTF-8"),
    ],
    ids=["latin", "utf-16", "surrogate"],
)
def test_a_question_on_stdin_that_is_no_text_is_refused(stdin: bytes, says: str, locale: str) -> None:
    code, _, stderr = _run("ask", "math", "-", stdin=stdin, LC_ALL=locale)
    assert code == 2
    assert says in stderr
    assert "iconv" in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("ask", "math", LATIN),
        ("ask", LATIN, "hi"),
        ("chat", "--system", LATIN),
        ("top", "--once", "--url", LATIN),
        ("eval", "tiny-math", "--model", LATIN),
        ("bench", "react", "--endpoint", b"a=http://" + LATIN),
        ("models", "evaluate", "tiny", "--url", LATIN),
        ("launch", LATIN),
        ("alias", LATIN, "math"),
        ("alias", "a", LATIN),
        ("reload", LATIN),
        ("add", ".", "--name", LATIN),
    ],
    ids=repr,
)
def test_arguments_that_are_no_text_are_named(arguments: tuple[str | bytes, ...]) -> None:
    code, _, stderr = _run(*arguments)
    assert code == 2
    assert "internal error" not in stderr
    assert stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("command", "key"),
    [
        (("ask", "math", "hi", "--api-key"), LATIN),
        (("top", "--once", "--api-key"), "Schlüssel"),
        (("bench", "react", "--api-key"), "two\nlines"),
    ],
)
def test_a_key_that_no_header_can_carry_is_refused(command: tuple[str, ...], key: str | bytes) -> None:
    code, _, stderr = _run(*command, key)
    assert code == 2, stderr
    assert "printable ASCII" in stderr


def test_a_mark_before_the_text_is_no_part_of_it() -> None:
    assert decode_text("\ufeff2 + 2".encode(), "it") == "2 + 2"
    with pytest.raises(ConfigError, match="it is not UTF-8 text"):
        decode_text(b"\xff", "it")


def test_files_may_have_any_name_and_answers_any_text(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    family = make_family(tmp_path / "family")
    os.rename(family.parent, folder + b"/family")
    file = folder + b"/family/" + os.fsencode(family.name)
    code, _, stderr = _run("launch", file, "--dry-run")
    assert code == 2
    assert "rename it" in stderr
    state = {"XDG_STATE_HOME": folder + b"/state", "PYTHONIOENCODING": "ascii"}
    code, stdout, stderr = _run("ps", "--json", **state)
    assert (code, json.loads(stdout)) == (0, []), stderr


def test_json_stays_json_where_stdout_has_no_unicode() -> None:
    program = "from prefillshare.cli.output import put_json; put_json({'name': 'café'})"
    for encoding in ("ascii", "utf-8", "latin-1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            timeout=120,
            check=True,
            env={**os.environ, "PYTHONIOENCODING": encoding},
        )
        assert json.loads(done.stdout) == {"name": "café"}


def _number_options(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    for name, inner in getattr(command, "commands", {}).items():
        yield from _number_options(inner, (*words, name))
    for parameter in command.params:
        if parameter.type_descriptor.annotation is float:
            yield " ".join((*words, parameter.opts[0])), parameter


def test_no_option_takes_a_number_without_an_end() -> None:
    command = typer.main.get_command(app)
    found = dict(_number_options(command))
    assert len(found) > 10
    for name, parameter in found.items():
        for value in ("nan", "inf", "-inf"):
            with pytest.raises((ConfigError, typer.BadParameter)):
                print(name, value, parameter.process_value(typer.Context(command), value))
