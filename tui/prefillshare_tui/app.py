"""The dashboard as a Textual app. Run it with `prefillshare top`."""

import asyncio
import re
import signal
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.reactive import reactive
from textual.screen import Screen

from prefillshare_tui import words
from prefillshare_tui.client import Source
from prefillshare_tui.clock import Clock, RealClock
from prefillshare_tui.export import Format, export
from prefillshare_tui.feed import Feed, FetchFailed, SnapshotArrived
from prefillshare_tui.history import SPANS_S, History
from prefillshare_tui.link import Link
from prefillshare_tui.screens.base import BaseScreen
from prefillshare_tui.screens.dialogs import Choice, HelpScreen, LeaveScreen
from prefillshare_tui.screens.overview import OverviewScreen
from prefillshare_tui.screens.tables import EventsScreen, ModulesScreen, SessionsScreen, TenantsScreen, WorkersScreen
from prefillshare_tui.snapshot import Snapshot
from prefillshare_tui.themes import DARK, LIGHT
from prefillshare_tui.view import View, view_of_window
from prefillshare_tui.widgets.bars import TABS, WITH_TENANTS

Leaving = Literal["stop", "keep"]
"""What becomes of a deployment that was launched together with the dashboard."""
_TICK_S = 1.0


class Dashboard(App[Leaving]):
    """Watches one deployment."""

    CSS_PATH = "dashboard.tcss"
    TITLE = "PrefillShare"
    MODES = {  # noqa: RUF012 - Textual's own form
        "overview": OverviewScreen,
        "modules": ModulesScreen,
        "workers": WorkersScreen,
        "sessions": SessionsScreen,
        "events": EventsScreen,
        "tenants": TenantsScreen,
    }
    DEFAULT_MODE = "overview"
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(f"{key}", f"open('{name}')", title, show=False) for key, (name, title) in enumerate(TABS, 1)),
        Binding("space", "pause", "Pause"),
        Binding("w", "window", "Window"),
        Binding("c", "copy", "Copy"),
        Binding("e", "export('csv')", "Export"),
        Binding("E", "export('json')", "Export as JSON", show=False),
        Binding("x", "picture", "Picture", show=False),
        Binding("t", "light", "Light", show=False),
        Binding("r", "retry", "Ask again", show=False),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "leave", "Quit"),
        Binding("ctrl+c", "interrupt", "Interrupt", show=False, priority=True),
    ]

    view: reactive[View | None] = reactive(None, always_update=True, init=False)
    """What the screens show."""
    now: reactive[float] = reactive(0.0, always_update=True, init=False)
    """The clock, moved once a second."""
    span_s: reactive[float] = reactive(SPANS_S[0], init=False)
    """The time window."""
    is_paused: reactive[bool] = reactive(False, init=False)
    """Whether the view is held; recording goes on."""

    def __init__(
        self,
        source: Source,
        *,
        interval_s: float = 1.0,
        clock: Clock | None = None,
        is_launched: bool = False,
        folder: Path | None = None,
    ) -> None:
        """Watch `source`; `is_launched` asks about stopping the deployment when left; `folder` takes exports."""
        super().__init__()
        # Before anything is drawn: the styles name the variables of these themes.
        for theme in (DARK, LIGHT):
            self.register_theme(theme)
        self.theme = DARK.name
        self.source = source
        self.clock: Clock = clock or RealClock()
        self.history = History()
        self.link = Link(interval_s=interval_s)
        self._feed = Feed(source, self.clock, self.post_message, interval_s)
        self._is_launched = is_launched
        self._folder = folder or Path.cwd()
        self._newest: Snapshot | None = None
        self.num_snapshots = 0
        """Snapshots taken so far."""

    def on_mount(self) -> None:
        """Begin to watch."""
        self.set_reactive(Dashboard.now, self.clock.now())
        self.set_interval(_TICK_S, self.tick)
        self.run_worker(self._feed.run(), name="feed")
        if threading.current_thread() is threading.main_thread():
            # Whoever ends the process finds the terminal as it was.
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self.exit)

    async def on_unmount(self) -> None:
        """Close the connections."""
        await self.source.close()

    def on_snapshot_arrived(self, message: SnapshotArrived) -> None:
        """Record a snapshot and show it."""
        now = self.clock.now()
        is_new = self.history.add(message.snapshot)
        self.link = self.link.received(now, is_new=is_new)
        self.num_snapshots += 1
        if is_new:
            self._newest = message.snapshot
        self.set_reactive(Dashboard.now, now)
        if is_new and not self.is_paused:
            self._show()
        else:
            self.now = now

    def on_fetch_failed(self, message: FetchFailed) -> None:
        """Say what is wrong."""
        now = self.clock.now()
        self.link = self.link.failed(message.error, now + message.retry_s)
        self.now = now

    def watch_span_s(self) -> None:
        """Show another window of what was recorded."""
        self._show()

    def watch_is_paused(self, is_paused: bool) -> None:
        """Catch up, or say that the view is held."""
        if is_paused:
            self.now = self.clock.now()
        else:
            self._show()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Everything that has a key can also be found by name."""
        for name, title in TABS:
            if name != WITH_TENANTS or self.has_tenants:
                yield SystemCommand(title, f"Show the screen {title}", lambda name=name: self.switch_mode(name))
        for span_s in SPANS_S:
            yield SystemCommand(
                f"Window {words.span(span_s)}", "Change the time window", lambda span_s=span_s: self._look_back(span_s)
            )
        yield SystemCommand("Pause or go on", "Hold what is shown; recording goes on", self.action_pause)
        yield SystemCommand("Copy", "Copy the selected row, or the summary", self.action_copy)
        yield SystemCommand("Export as CSV", "Write the window to a file", lambda: self.action_export("csv"))
        yield SystemCommand("Export as JSON", "Write the window to a file", lambda: self.action_export("json"))
        yield SystemCommand("Picture", "Save the screen as SVG", self.action_picture)
        yield SystemCommand("Light or dark", "Change between the two themes", self.action_light)
        yield SystemCommand("Ask again now", "Do not wait for the next attempt", self.action_retry)
        yield SystemCommand("Help", "What the words mean, and all keys", self.action_help)
        yield SystemCommand("Quit", "Leave the dashboard", self.action_leave)

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """Return the screen as SVG; unlike Textual's own it fetches no fonts from the web when it is looked at."""
        svg = super().export_screenshot(title=title, simplify=simplify)
        return re.sub(r"\s*@font-face\s*\{.*?\}", "", svg, flags=re.DOTALL)

    @property
    def has_tenants(self) -> bool:
        """Whether the deployment has tenants."""
        return self._newest is not None and self._newest.tenants is not None

    def action_open(self, name: str) -> None:
        """Show a screen."""
        if name == WITH_TENANTS and not self.has_tenants:
            self.notify("This deployment has no tenants: one key is everybody's.")
        else:
            self.switch_mode(name)

    def action_pause(self) -> None:
        """Hold the view, or go on."""
        self.is_paused = not self.is_paused

    def action_window(self) -> None:
        """Take the next time window."""
        self._look_back(SPANS_S[(SPANS_S.index(self.span_s) + 1) % len(SPANS_S)])

    def action_light(self) -> None:
        """Change between light and dark."""
        self.theme = LIGHT.name if self.theme == DARK.name else DARK.name

    def action_retry(self) -> None:
        """Ask the server at once."""
        self._feed.hurry()

    def action_help(self) -> None:
        """Explain terms and keys."""
        self.push_screen(HelpScreen())

    def action_copy(self) -> None:
        """Copy what the screen has selected."""
        text, what = self.screen.text_for_clipboard() if isinstance(self.screen, BaseScreen) else ("", "")
        if text:
            self.copy_to_clipboard(text)
        self.notify(f"Copied {what}." if text else "There is nothing to copy yet.")

    def action_export(self, format: Format) -> None:
        """Write the window to a file."""
        if self.view is None:
            self.notify("There is nothing to export yet.")
            return
        try:
            path = export(self.view, self._folder, format)
        except OSError as error:
            self.notify(
                f"{self._folder}: {error.strerror}. Start the dashboard in a folder of yours.", severity="error"
            )
        else:
            self.notify(f"Wrote {path}", markup=False)

    def action_picture(self) -> None:
        """Save the screen as SVG."""
        try:
            path = self.save_screenshot(path=str(self._folder))
        except OSError as error:
            self.notify(
                f"{self._folder}: {error.strerror}. Start the dashboard in a folder of yours.", severity="error"
            )
        else:
            self.notify(f"Wrote {path}", markup=False)

    def action_leave(self) -> None:
        """Quit; ask first when the deployment was launched with the dashboard."""
        if self._is_launched:
            self.push_screen(LeaveScreen(), self._decided)
        else:
            self.exit()

    def action_interrupt(self) -> None:
        """Ctrl-C: end everything, as without a dashboard."""
        self.exit("stop" if self._is_launched else None)

    def _decided(self, choice: Choice | None) -> None:
        if choice in ("stop", "keep"):
            self.exit(choice)

    def _look_back(self, span_s: float) -> None:
        self.span_s = span_s

    def _show(self) -> None:
        if self._newest is not None:
            self.view = view_of_window(self._newest, self.history, self.span_s)

    def tick(self) -> None:
        """Move the clock on the screen."""
        self.now = self.clock.now()
