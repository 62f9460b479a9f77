"""Rows of JSON: one object per line, or the elements of one array."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from prefillshare.datafiles.rows import BadRow, Row, excerpt
from prefillshare.errors import first_line

_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]')
_BETWEEN = re.compile(r"[\s,]*")


def json_lines(lines: Iterable[str | BadRow]) -> Iterator[Row]:
    """A row per line that is not blank."""
    for line in lines:
        if isinstance(line, BadRow):
            yield line
        elif line.strip():
            yield _row_of_line(line)


def json_file(lines: Iterator[str | BadRow]) -> Iterator[Row]:
    """Rows of a file that holds an array, or after all one object per line."""
    start: list[str | BadRow] = []
    for line in lines:
        start.append(line)
        if isinstance(line, BadRow) or line.strip():
            break
    first = start[-1] if start else ""
    if isinstance(first, str) and first.lstrip().startswith("["):
        return _read_elements(list(chain(start, lines)))
    return json_lines(chain(start, lines))


def _row_of_line(line: str) -> Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return BadRow(reason=f"the line is not JSON: {excerpt(line)}")
    except (ValueError, RecursionError) as error:
        return _describe_unreadable("line", error, line)
    return _require_object("line", row, line)


def _read_elements(lines: list[str | BadRow]) -> Iterator[Row]:
    """A row per element; behind a broken one, from where its brackets close, or the next begins as the first did."""
    text = "\n".join(line for line in lines if isinstance(line, str))
    place = text.index("[") + 1
    decoder, starts = json.JSONDecoder(), _find_starts(text, place)
    while True:
        place = _BETWEEN.match(text, place).end()  # type: ignore[union-attr]
        if text[place : place + 1] == "]":
            return
        if place == len(text):
            yield BadRow(reason="the array has no end: the file is cut", is_end=True)
            return
        try:
            row, end = decoder.raw_decode(text, place)
            yield _require_object("element", row, text[place : place + 80])
        except (ValueError, RecursionError) as error:
            yield _describe_unreadable("element", error, text[place : place + 80])
            end = _find_end(text, place) or next((start for start in starts if start > place), len(text))
        place = end


def _find_end(text: str, place: int) -> int | None:
    """Where the brackets of a broken element close."""
    depth = 0
    for match in _BRACKETS.finditer(text, place):
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(match[0], 0)
        if depth <= 0:
            return match.end()
    return None


def _find_starts(text: str, place: int) -> Iterator[int]:
    """Where elements begin, if each begins a line as the first does."""
    first = re.compile(r"\s*\n(?P<indent>[ \t]*)\{").match(text, place)
    if first is None:
        return iter(())
    found = re.compile(rf"^{first['indent']}(?=\{{)", re.MULTILINE).finditer(text, place)
    return (match.end() for match in found)


def _require_object(what: str, row: Any, text: str) -> Row:
    return row if isinstance(row, dict) else BadRow(reason=f"the {what} is not a JSON object: {excerpt(text)}")


def _describe_unreadable(what: str, error: Exception, text: str) -> BadRow:
    reason = "it is nested too deeply" if isinstance(error, RecursionError) else first_line(error)
    return BadRow(reason=f"the {what} cannot be read ({reason}): {excerpt(text)}")
