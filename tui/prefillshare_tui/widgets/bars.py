"""The lines above and below the body: status, tabs, what is wrong, the filter."""

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.reactive import reactive
from textual.widgets import Input, Static

from prefillshare_tui.parts import Line, as_text
from prefillshare_tui.widgets.paint import painted

TABS = (
    ("overview", "Overview"),
    ("modules", "Modules"),
    ("workers", "Workers"),
    ("sessions", "Sessions"),
    ("events", "Events"),
    ("tenants", "Tenants"),
)
"""Screens by name, in the order of their keys 1 to 6."""
WITH_TENANTS = "tenants"
"""The one that only a deployment with tenants has."""


class StatusBar(Static):
    """What is watched on the left; the state of the connection on the right."""

    def show(self, left: Line, right: Line) -> None:
        """Show other texts; the left one gives way."""
        room = max(0, self.size.width - len(as_text(right)) - 2)
        self.update(_left(left, room) + painted((right,)), layout=False)


class TabBar(Static):
    """The names of the screens; a click opens one."""

    class Chosen(Message):
        """A name was clicked."""

        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

    has_tenants: reactive[bool] = reactive(False)
    """Whether the deployment has tenants; their screen is named then."""

    def __init__(self, current: str) -> None:
        super().__init__()
        self._current = current

    def watch_has_tenants(self) -> None:
        """Write the names."""
        parts: list[str | tuple[str, str]] = []
        for number, (name, title) in enumerate(self._tabs(), 1):
            label = f" {number} {title} "
            # The frame around the open one is seen without colour, too.
            parts.append((f"[{label}]", "bold reverse") if name == self._current else f" {label} ")
        self.update(Content.assemble(*parts))

    def on_click(self, event: events.Click) -> None:
        """Open the screen whose name was clicked."""
        left = 0
        for number, (name, title) in enumerate(self._tabs(), 1):
            left += len(f"  {number} {title}  ")
            if event.x < left:
                self.post_message(self.Chosen(name))
                return

    def _tabs(self) -> tuple[tuple[str, str], ...]:
        is_named = self.has_tenants or self._current == WITH_TENANTS
        return TABS if is_named else tuple(tab for tab in TABS if tab[0] != WITH_TENANTS)


class Banner(Static):
    """A sentence on what is wrong; takes no room while nothing is."""

    text: reactive[str] = reactive("")

    def watch_text(self, text: str) -> None:
        """Show or hide it."""
        self.display = bool(text)
        self.update(Content(text))


class FilterBar(Input):
    """The words that rows must contain; hidden until `/` is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "submit", "Keep", priority=True),
        Binding("escape", "clear", "Clear", priority=True),
    ]

    class Left(Message):
        """Enter or Escape: the table takes the keys again."""

    def __init__(self) -> None:
        super().__init__(placeholder="words that rows must contain", compact=True)
        self.cursor_blink = False
        self.display = False

    def action_clear(self) -> None:
        """Clear the filter and hide."""
        self.value = ""
        self.display = False
        self.post_message(self.Left())

    def on_input_submitted(self) -> None:
        """Keep the filter and give the keys back."""
        self.display = bool(self.value)
        self.post_message(self.Left())


def _left(parts: Line, room: int) -> Content:
    text = painted((parts,))
    return text.truncate(room, ellipsis=True, pad=True) + Content("  ") if room else Content("")
