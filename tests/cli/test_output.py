"""Colour only where it is wanted, tables that a script can read."""

import io

import pytest

from prefillshare.cli.output import paint, put_table, wants_colour


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())


def test_a_piped_table_is_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    put_table(("model", "role"), [("math", "decode")])
    assert capsys.readouterr().out == "model\trole\nmath\tdecode\n"


@pytest.mark.parametrize("columns", ["0", "1", "-5", "many"])
def test_a_table_is_shown_whatever_columns_says(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", columns)
    put_table(("model", "role"), [("math", "decode")])
    assert "decode" in screen.getvalue()


def test_a_narrow_terminal_takes_no_letters_away(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setenv("COLUMNS", "40")
    put_table(("process", "node", "address"), [("decode-math-0", "a-node", "http://10.77.0.13:20117")])
    lines = screen.getvalue().splitlines()[1:]
    assert lines[0].startswith("decode-math-0 ")
    assert "".join(line[23:].strip() for line in lines) == "http://10.77.0.13:20117"
