"""The screens that are tables: rows, sentences on the selected one, and plots of it where there is room."""

from typing import Any, ClassVar

import orjson
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.widgets import Input

from prefillshare_tui import charts
from prefillshare_tui.charts import Chart
from prefillshare_tui.screens.base import BaseScreen
from prefillshare_tui.tables.base import Table
from prefillshare_tui.tables.events import EVENTS
from prefillshare_tui.tables.modules import MODULES, ModuleRow
from prefillshare_tui.tables.sessions import SESSIONS
from prefillshare_tui.tables.tenants import TENANTS
from prefillshare_tui.tables.workers import WORKERS, WorkerRow
from prefillshare_tui.view import View
from prefillshare_tui.widgets.bars import FilterBar
from prefillshare_tui.widgets.panel import Panel
from prefillshare_tui.widgets.plot import Plot
from prefillshare_tui.widgets.row_table import RowTable


class TableScreen(BaseScreen):
    """A screen around one table."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # Priority: handled before the letters that follow it are given to whoever has the focus.
        Binding("slash", "filter", "Filter", key_display="/", priority=True),
        Binding("s", "sort", "Sort"),
        Binding("S", "reverse", "Reverse sort", show=False),
        Binding("escape", "clear_filter", "Clear filter", show=False),
    ]
    TABLE: Table[Any]
    NUM_PLOTS = 0

    def compose_body(self) -> ComposeResult:
        """The table with its frame, the plots, the sentences, the filter."""
        with Vertical(id="table-frame", classes="body"):
            yield RowTable(self.TABLE, id="rows")
        if self.NUM_PLOTS:
            with Horizontal(id="plots", classes="body"):
                for number in range(self.NUM_PLOTS):
                    yield Plot(id=f"plot-{number}")
        yield Panel(id="detail", classes="body")
        yield FilterBar()

    @property
    def rows(self) -> RowTable[Any]:
        """The table."""
        return self.query_one("#rows", RowTable)

    def show_view(self, view: View) -> None:
        """Give the table its rows."""
        self.rows.show(self.TABLE.rows(view))

    def plots(self, view: View, row: Any) -> tuple[Chart, ...]:
        """Charts of the selected row."""
        return ()

    def text_for_clipboard(self) -> tuple[str, str]:
        """The selected row as one line of JSON."""
        row = self.rows.selected
        if row is None:
            return "", ""
        return orjson.dumps(self.TABLE.record(row)).decode(), f"{self.TABLE.key(row)} as JSON"

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """While words are typed, a slash is a letter."""
        return action != "filter" or not self.query_one(FilterBar).has_focus

    def action_filter(self) -> None:
        """Ask for words."""
        bar = self.query_one(FilterBar)
        bar.display = True
        # At once, not after the next refresh.
        self.set_focus(bar)

    def action_clear_filter(self) -> None:
        """Show all rows again."""
        self.query_one(FilterBar).action_clear()

    def action_sort(self) -> None:
        """Sort by the next column."""
        self.rows.sort_next()

    def action_reverse(self) -> None:
        """Turn the order round."""
        self.rows.sort_by(self.rows.sort_title, is_descending=not self.rows.is_descending)

    def on_input_changed(self, message: Input.Changed) -> None:
        """Filter while the words are typed."""
        self.rows.filter(message.value)

    def on_filter_bar_left(self) -> None:
        """Give the keys back to the table."""
        self.set_focus(self.rows)

    def on_row_table_sort_changed(self) -> None:
        """Say how rows are sorted."""
        self._write_title()

    def on_row_table_selected(self) -> None:
        """Write about the row under the cursor."""
        view, row = self.dashboard.view, self.rows.selected
        self._write_title()
        if view is None:
            return
        self.query_one("#detail", Panel).show(self.TABLE.detail(row, view) if row is not None else ())
        if self.NUM_PLOTS and row is not None and self.query_one("#plots").display:
            for number, chart in enumerate(self.plots(view, row)):
                self.query_one(f"#plot-{number}", Plot).show(chart)

    def _write_title(self) -> None:
        rows = self.rows
        of = f"{rows.num_shown} of {rows.num_all}" if rows.needle else f"{rows.num_all}"
        order = f", by {rows.sort_title} {'▼' if rows.is_descending else '▲'}" if rows.sort_title else ""
        words = f', with "{rows.needle}"' if rows.needle else ""
        title = f"{of} {self.TABLE.name}{words}{order}".replace("[", r"\[")
        frame = self.query_one("#table-frame")
        if frame.border_title != title:
            frame.border_title = title


class ModulesScreen(TableScreen):
    """Decode modules."""

    TAB = "modules"
    TABLE = MODULES
    NUM_PLOTS = 2

    def plots(self, view: View, row: ModuleRow) -> tuple[Chart, ...]:
        """Hits and time to first token of the selected module."""
        name = row.module.name
        trail = charts.trail(view.samples, view.span_s, lambda sample: sample.modules.get(name))
        return (
            charts.hits_chart(trail, view.span_s, f"{name}: prefix hits"),
            charts.latency_chart(trail, view.span_s, "ttft", f"{name}: TTFT"),
        )


class WorkersScreen(TableScreen):
    """Processes."""

    TAB = "workers"
    TABLE = WORKERS
    NUM_PLOTS = 2

    def plots(self, view: View, row: WorkerRow) -> tuple[Chart, ...]:
        """Memory and tokens of the selected worker."""
        id, missed = row.worker.id, "handed off" if row.worker.role == "decode" else "prefilled"
        trail = charts.trail(view.samples, view.span_s, lambda sample: sample.workers.get(id))
        return (
            charts.memory_chart(view.samples, view.span_s, id),
            charts.tokens_chart(trail, view.span_s, f"{id}: tokens/s", missed),
        )


class SessionsScreen(TableScreen):
    """Conversations."""

    TAB = "sessions"
    TABLE = SESSIONS


class EventsScreen(TableScreen):
    """What happened."""

    TAB = "events"
    TABLE = EVENTS


class TenantsScreen(TableScreen):
    """Who calls with keys of their own."""

    TAB = "tenants"
    TABLE = TENANTS
