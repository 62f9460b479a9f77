"""A framed block of lines."""

from collections.abc import Iterable

from textual.widgets import Static

from prefillshare_tui.parts import Line
from prefillshare_tui.widgets.paint import painted


class Panel(Static):
    """Shows lines; draws anew only when they changed."""

    def __init__(self, title: str = "", *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self.border_title = title
        self._lines: tuple[Line, ...] | None = None

    def show(self, lines: Iterable[Line]) -> None:
        """Show other lines."""
        new = tuple(lines)
        if new != self._lines:
            self._lines = new
            # The frame's size never follows the text, so nothing has to be laid out again.
            self.update(painted(new), layout=False)
