"""A table of many rows that draws only the lines in sight.

Rows are replaced as a whole with each snapshot; the cursor stays on its row by key.
"""

from collections.abc import Sequence
from typing import ClassVar, Generic

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from prefillshare_tui.parts import Line, Tone, as_text, line
from prefillshare_tui.tables.base import Column, Row, Table, arrange, fit
from prefillshare_tui.words import cut, cut_middle

_TONES: tuple[Tone, ...] = ("plain", "strong", "dim", "own", "cross", "missed", "good", "warn", "bad")
_GAP = "  "
_HEAD_ROWS = 1


class RowTable(ScrollView, Generic[Row], can_focus=True):
    """Shows the rows of one table."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "row-table--head",
        "row-table--cursor",
        *(f"row-table--{tone}" for tone in _TONES),
    }
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("pageup", "move_page(-1)", "Page up", show=False),
        Binding("pagedown", "move_page(1)", "Page down", show=False),
        Binding("home,g", "move_to(0)", "First", show=False),
        Binding("end,G", "move_to(-1)", "Last", show=False),
    ]

    class Selected(Message):
        """The cursor stands on another row, or the row says something else."""

    class SortChanged(Message):
        """A head was clicked."""

    def __init__(self, table: Table[Row], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.table = table
        self.needle = ""
        self.sort_title = table.sort_title
        self.is_descending = table.is_descending
        self._all: Sequence[Row] = ()
        self._rows: list[Row] = []
        self._cursor = 0

    @property
    def selected(self) -> Row | None:
        """The row under the cursor."""
        return self._rows[self._cursor] if self._rows else None

    @property
    def num_shown(self) -> int:
        """Rows that the filter leaves."""
        return len(self._rows)

    @property
    def num_all(self) -> int:
        """Rows of the snapshot."""
        return len(self._all)

    def show(self, rows: Sequence[Row]) -> None:
        """Show other rows."""
        self._all = rows
        self._arrange()

    def filter(self, needle: str) -> None:
        """Show only rows that contain every word of `needle`."""
        self.needle = needle
        self._arrange()

    def sort_by(self, title: str | None, *, is_descending: bool) -> None:
        """Sort by a column's title; None takes the server's order."""
        self.sort_title, self.is_descending = title, is_descending
        self._arrange()
        self.post_message(self.SortChanged())

    def sort_next(self) -> None:
        """Sort by the next column in sight, largest first; after the last one in the server's order."""
        titles: list[str | None] = [None, *(column.title for column, _ in self._columns())]
        place = titles.index(self.sort_title) if self.sort_title in titles else 0
        self.sort_by(titles[(place + 1) % len(titles)], is_descending=True)

    def action_move(self, rows: int) -> None:
        """Move the cursor."""
        self._move_to(self._cursor + rows)

    def action_move_page(self, pages: int) -> None:
        """Move the cursor by what is in sight."""
        self._move_to(self._cursor + pages * max(1, self.size.height - _HEAD_ROWS - 1))

    def action_move_to(self, row: int) -> None:
        """Move the cursor to a row; -1 is the last one."""
        self._move_to(row if row >= 0 else len(self._rows) - 1)

    def on_click(self, event: events.Click) -> None:
        """Sort by the head that was clicked, or put the cursor on the row."""
        if event.y < _HEAD_ROWS:
            column = self._column_at(event.x)
            if column is not None:
                is_same = column.title == self.sort_title
                self.sort_by(column.title, is_descending=not self.is_descending if is_same else True)
        else:
            self._move_to(event.y - _HEAD_ROWS + self.scroll_offset.y)

    def on_resize(self) -> None:
        """Fit the scroll range to the new size."""
        self._measure()

    def render_line(self, y: int) -> Strip:
        """Draw one line of what is in sight."""
        width = self.size.width
        if y < _HEAD_ROWS:
            return self._head(width)
        index = y - _HEAD_ROWS + self.scroll_offset.y
        if not self._rows:
            return self._empty(width) if y == _HEAD_ROWS + 1 else Strip.blank(width, self.rich_style)
        if index >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        return self._row(index, width)

    def _arrange(self) -> None:
        before = self.selected
        key = self.table.key(before) if before is not None else None
        self._rows = arrange(self.table, self._all, self.needle, self.sort_title, self.is_descending)
        # At the top one watches what comes in; elsewhere the cursor stays with its row.
        if key is not None and self._cursor > 0:
            keys = (index for index, row in enumerate(self._rows) if self.table.key(row) == key)
            self._cursor = next(keys, self._cursor)
        self._cursor = max(0, min(self._cursor, len(self._rows) - 1))
        self._measure()
        self.refresh()
        self.post_message(self.Selected())

    def _measure(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._rows) + _HEAD_ROWS)

    def _move_to(self, row: int) -> None:
        if not self._rows:
            return
        self._cursor = max(0, min(row, len(self._rows) - 1))
        first, num_visible = self.scroll_offset.y, self.size.height - _HEAD_ROWS
        if self._cursor < first:
            self.scroll_to(y=self._cursor, animate=False, force=True)
        elif self._cursor >= first + num_visible:
            self.scroll_to(y=self._cursor - num_visible + 1, animate=False, force=True)
        self.refresh()
        self.post_message(self.Selected())

    def _columns(self) -> list[tuple[Column[Row], int]]:
        return fit(self.table.columns, max(10, self.size.width - 3))

    def _column_at(self, x: int) -> Column[Row] | None:
        left = 1
        for column, width in self._columns():
            if x < left + width + len(_GAP):
                return column
            left += width + len(_GAP)
        return None

    def _head(self, width: int) -> Strip:
        style = self.get_component_rich_style("row-table--head")
        text = " "
        for column, cells in self._columns():
            mark = ("▼" if self.is_descending else "▲") if column.title == self.sort_title else ""
            title = cut(column.title, cells - len(mark)) + mark
            text += (f"{title:<{cells}}" if column.align == "left" else f"{title:>{cells}}") + _GAP
        return Strip([Segment(f"{text[:width]:<{width}}", style)], width)

    def _row(self, index: int, width: int) -> Strip:
        is_cursor = index == self._cursor
        base = self.get_component_rich_style("row-table--cursor") if is_cursor else self.rich_style
        # The mark shows the cursor where there is no colour.
        segments = [Segment("▌" if is_cursor else " ", base)]
        for column, cells in self._columns():
            parts = _fitted(column.cell(self._rows[index]), cells, is_name=column.is_name)
            segments += self._cell(parts, cells, column.align == "left", base)
            segments.append(Segment(_GAP, base))
        return Strip(segments).crop(0, width).extend_cell_length(width, base)

    def _cell(self, parts: Line, cells: int, is_left: bool, base: Style) -> list[Segment]:
        pad = Segment(" " * (cells - cell_len(as_text(parts))), base)
        segments = [Segment(part.text, self._style(part.tone, base)) for part in parts]
        return [*segments, pad] if is_left else [pad, *segments]

    def _style(self, tone: Tone, base: Style) -> Style:
        if tone == "plain":
            return base
        tone_style = self.get_component_rich_style(f"row-table--{tone}", partial=True)
        return base + Style(color=tone_style.color, bold=tone_style.bold)

    def _empty(self, width: int) -> Strip:
        text = f"No {self.table.name} match {self.needle!r}." if self._all else self.table.empty
        style = self.rich_style + self.get_component_rich_style("row-table--dim", partial=True)
        return Strip([Segment(f"  {text}"[:width].ljust(width), style)], width)


def _fitted(parts: Line, width: int, *, is_name: bool) -> Line:
    if len(as_text(parts)) <= width:
        return parts
    if is_name and len(parts) == 1:
        return line((cut_middle(parts[0].text, width), parts[0].tone))
    kept: list[tuple[str, Tone]] = []
    for text, tone in parts:
        room = width - sum(len(shown) for shown, _ in kept)
        if room <= 0:
            break
        kept.append((cut(text, room), tone))
    return line(*kept)
