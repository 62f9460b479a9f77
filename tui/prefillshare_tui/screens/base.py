"""What every screen has: status, tabs, trouble, body, keys. It draws only while it is the one in sight."""

from typing import TYPE_CHECKING, cast

from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import Footer, Static

from prefillshare_tui import words
from prefillshare_tui.overview import warning_of
from prefillshare_tui.parts import Line, as_text, line
from prefillshare_tui.view import View
from prefillshare_tui.widgets.bars import Banner, StatusBar, TabBar

if TYPE_CHECKING:
    from prefillshare_tui.app import Dashboard


class BaseScreen(Screen[None]):
    """A screen over the app's view."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (110, "-medium"), (150, "-wide")]  # noqa: RUF012 - not marked upstream
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall"), (50, "-huge")]  # noqa: RUF012 - not marked upstream
    TAB = ""
    """Its name among the tabs."""

    @property
    def dashboard(self) -> "Dashboard":
        """The app."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        """Lay the lines around the body."""
        yield StatusBar()
        yield TabBar(self.TAB)
        yield Banner()
        yield Static("", id="waiting")
        yield from self.compose_body()
        yield Footer(compact=True, show_command_palette=True)

    def compose_body(self) -> ComposeResult:
        """Lay out what the screen is about."""
        raise NotImplementedError

    def show_view(self, view: View) -> None:
        """Draw the view."""
        raise NotImplementedError

    def text_for_clipboard(self) -> tuple[str, str]:
        """What to copy, and what it is called."""
        raise NotImplementedError

    def on_mount(self) -> None:
        """Follow the app's view and the clock."""
        self.watch(self.app, "view", self.redraw, init=False)
        self.watch(self.app, "now", self.redraw_status, init=False)

    def on_screen_resume(self) -> None:
        """Catch up with what came while another screen was in sight."""
        self.call_after_refresh(self.redraw)

    def on_resize(self) -> None:
        """Draw at the new size."""
        self.call_after_refresh(self.redraw)

    def on_tab_bar_chosen(self, message: TabBar.Chosen) -> None:
        """Open another screen."""
        self.app.switch_mode(message.name)

    def redraw(self) -> None:
        """Draw everything, if in sight."""
        if not self.is_current or not self.is_mounted:
            return
        view = self.dashboard.view
        self.set_class(view is None, "-waiting")
        if view is not None:
            self.show_view(view)
        self.redraw_status()

    def redraw_status(self) -> None:
        """Draw the lines around the body, if in sight."""
        if not self.is_current or not self.is_mounted:
            return
        app = self.dashboard
        trouble = app.link.trouble(app.now)
        self.query_one(StatusBar).show(self._watched(), self._standing())
        is_waiting = app.view is None
        self.query_one(TabBar).has_tenants = app.has_tenants
        self.query_one(Banner).text = "" if app.view is None else trouble or warning_of(app.view.snapshot)
        self.set_class(app.link.state(app.now) != "live" and not is_waiting, "-old")
        if is_waiting:
            self.query_one("#waiting", Static).update(trouble or f"Asking {app.source.url} ...")

    def _watched(self) -> Line:
        app = self.dashboard
        if app.view is None:
            return line((" PrefillShare ", "strong"), app.source.url)
        snapshot = app.view.snapshot
        uptime = snapshot.time - snapshot.started if snapshot.started is not None else None
        texts = [f" {snapshot.topology}, up {words.span(uptime)} ", f" {app.source.url} "]
        room = self.size.width - len(f" PrefillShare  {snapshot.name} ") - len(as_text(self._standing())) - 2
        while texts and sum(map(len, texts)) > room:
            texts.pop()
        return line((" PrefillShare ", "strong"), f" {snapshot.name} ", ("".join(texts), "dim"))

    def _standing(self) -> Line:
        app = self.dashboard
        return (
            line((f"last {words.span(app.span_s)}  ", "dim"))
            + app.link.badge(app.now, is_paused=app.is_paused)
            + line(" ")
        )
