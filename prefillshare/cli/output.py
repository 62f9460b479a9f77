"""What the commands print: data on stdout, the rest on stderr, colour only on a terminal."""

import json
import sys
from collections.abc import Sequence
from typing import Any, TextIO

from prefillshare.cli.text import can_print_unicode

_MIN_COLUMNS = 20
_USUAL_COLUMNS = 80


def say(text: str = "") -> None:
    """Tell the person at the terminal something that is not the command's data."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """Tell about something that works but should be looked at."""
    say(f"{paint('warning:', 'yellow', sys.stderr)} {text}")


def put(text: str = "") -> None:
    """Print data."""
    print(text, flush=True)


def put_json(value: Any) -> None:
    """Print data for a script, on one line."""
    put(json.dumps(value, ensure_ascii=not can_print_unicode(), default=str))


def put_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: drawn on a terminal, tab-separated into a pipe."""
    if not sys.stdout.isatty():
        for row in (header, *rows):
            put("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Column, Table

    # A narrow terminal must not take letters away: first come names, which other commands are given.
    names, *others = header
    columns = [Column(names, no_wrap=True), *(Column(name, overflow="fold") for name in others)]
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for row in rows:
        table.add_row(*row)
    console = Console()
    if console.width < _MIN_COLUMNS:  # COLUMNS may say anything; the terminal wraps what does not fit
        console = Console(width=_USUAL_COLUMNS)
    console.print(table, markup=False)


def put_comment_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as comments of a shell, so that what follows can be pasted along with it."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        put(f"# {'  '.join(cells)}".rstrip())


def paint(text: str, colour: str, stream: TextIO) -> str:
    """Return `text` in a colour when `stream` is a terminal that wants it."""
    codes = {"red": 31, "green": 32, "yellow": 33, "cyan": 36, "dim": 2, "bold": 1}
    return f"\x1b[{codes[colour]}m{text}\x1b[0m" if wants_colour(stream) else text


def wants_colour(stream: TextIO) -> bool:
    """Return whether to colour: a terminal, and neither NO_COLOR nor TERM=dumb is set."""
    import os

    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
