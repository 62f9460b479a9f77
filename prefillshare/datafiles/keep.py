"""What can be made of a file's rows, and why the others cannot be used."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from prefillshare.datafiles.rows import BadRow, Row, excerpt

Made = TypeVar("Made")
_NUM_SHOWN = 3


def keep(
    rows: Iterable[Row], make: Callable[[Mapping[str, Any]], Made], limit: int | None = None
) -> tuple[list[Made], list[str]]:
    """Make something of each row, up to `limit`; also say of each row that was left out its number and the reason.

    `make` may raise what reading a row of the wrong shape raises; a ValueError's text is the reason.
    """
    kept: list[Made] = []
    left_out: list[str] = []
    for number, row in enumerate(rows, start=1):
        if len(kept) == limit:
            break
        if isinstance(row, BadRow):
            left_out.append(f"row {number}: {row.reason}")
            continue
        try:
            kept.append(make(row))
        except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
            left_out.append(f"row {number}: {_reason(error)}")
    return kept, left_out


def require_text(row: Mapping[str, Any], key: str) -> str:
    """A text of a row.

    Raises: ValueError, or KeyError when there is none.
    """
    value = row[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is {excerpt(repr(value))}, not text")
    return value


def summarise_left_out(left_out: Sequence[str]) -> str:
    """How many rows are left out, with the first few reasons."""
    more = len(left_out) - _NUM_SHOWN
    shown = [*left_out[:_NUM_SHOWN], *([f"and {more} more"] if more > 0 else ())]
    return f"{len(left_out)} row{'s are' if len(left_out) > 1 else ' is'} left out ({'; '.join(shown)})"


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"no {error.args[0]!r}"
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
