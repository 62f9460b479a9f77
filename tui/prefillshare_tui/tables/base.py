"""What a table is: rows of one kind, columns that write and sort them, and a few sentences on the selected row."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from prefillshare_tui.parts import Line, as_text
from prefillshare_tui.view import View

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column(Generic[Row]):
    """One column."""

    title: str
    """Its head."""
    width: int
    """Cells that it needs."""
    cell: Callable[[Row], Line]
    """Writes a row's value."""
    sort_key: Callable[[Row], Any]
    """Orders rows; None sorts last."""
    align: Literal["left", "right"] = "right"
    """Where the value stands."""
    priority: int = 0
    """Columns of a higher number go first when the terminal is narrow; 0 always stays."""
    is_flexible: bool = False
    """Whether it takes the room that is left."""
    is_name: bool = False
    """Whether a value too long loses its middle instead of its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Generic[Row]):
    """One table."""

    name: str
    """What its rows are, in the plural."""
    columns: tuple[Column[Row], ...]
    """From left to right."""
    rows: Callable[[View], Sequence[Row]]
    """The rows in the order in which the server names them."""
    key: Callable[[Row], str]
    """What a row is recognised by when the next snapshot comes."""
    detail: Callable[[Row, View], tuple[Line, ...]]
    """Sentences on the selected row."""
    record: Callable[[Row], Any]
    """The row's exact values, for the clipboard."""
    empty: str
    """What to say when there are no rows."""
    sort_title: str | None = None
    """Column that sorts at first; None keeps the server's order."""
    is_descending: bool = False
    """Direction of that."""


def arrange(
    table: Table[Row], rows: Sequence[Row], needle: str, sort_title: str | None, is_descending: bool
) -> list[Row]:
    """Rows that contain `needle`, in order; rows without a value come last in both directions."""
    words = needle.lower().split()
    kept = [row for row in rows if not words or _contains(table, row, words)]
    column = next((column for column in table.columns if column.title == sort_title), None)
    if column is None:
        return kept
    known = [row for row in kept if column.sort_key(row) is not None]
    unknown = [row for row in kept if column.sort_key(row) is None]
    return sorted(known, key=column.sort_key, reverse=is_descending) + unknown


def fit(columns: Sequence[Column[Row]], width: int) -> list[tuple[Column[Row], int]]:
    """The columns that fit into `width` cells, each followed by two blanks, with their widths."""
    kept = list(columns)
    while len(kept) > 1 and sum(column.width + 2 for column in kept) - 2 > width:
        worst = max(column.priority for column in kept)
        if worst == 0:
            break
        kept.remove(next(column for column in reversed(kept) if column.priority == worst))
    spare = max(0, width - sum(column.width + 2 for column in kept) + 2)
    flexible = [column for column in kept if column.is_flexible]
    extra = {id(column): spare // len(flexible) for column in flexible}
    return [(column, column.width + extra.get(id(column), 0)) for column in kept]


def _contains(table: Table[Row], row: Row, words: Sequence[str]) -> bool:
    text = " ".join(as_text(column.cell(row)) for column in table.columns).lower()
    return all(word in text for word in words)
