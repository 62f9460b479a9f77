"""Rows of CSV: the first line names the columns, and every value is text."""

import csv
from collections.abc import Iterable, Iterator

from prefillshare.datafiles.rows import BadRow, Row
from prefillshare.errors import first_line

_LONGEST_FIELD = 2**31 - 1


def csv_rows(lines: Iterable[str | BadRow], delimiter: str) -> Iterator[Row]:
    """A row per record; a record may span lines."""
    csv.field_size_limit(_LONGEST_FIELD)
    bad: list[BadRow] = []
    records = csv.reader(_good_lines(lines, bad), delimiter=delimiter)
    names: list[str] | None = None
    while True:
        try:
            values = next(records)
        except StopIteration:
            break
        except csv.Error as error:
            yield BadRow(reason=f"the line is not CSV ({first_line(error)})")
            continue
        # A bad line was read before the record behind it.
        yield from _take_all(bad)
        if names is None:
            names = values
        elif values:
            yield _row(names, values)
    yield from _take_all(bad)


def _good_lines(lines: Iterable[str | BadRow], bad: list[BadRow]) -> Iterator[str]:
    for line in lines:
        if isinstance(line, BadRow):
            bad.append(line)
        else:
            yield f"{line}\n"


def _take_all(bad: list[BadRow]) -> list[BadRow]:
    taken = bad.copy()
    bad.clear()
    return taken


def _row(names: list[str], values: list[str]) -> Row:
    if len(values) != len(names):
        return BadRow(reason=f"the line has {len(values)} fields, and the first line names {len(names)} columns")
    return dict(zip(names, values, strict=True))
