"""Progress on stderr: the stages of a slow start with a running clock, and a bar for questions that are counted."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from prefillshare.cli.output import paint, say

_TICK_S = 0.2


class StageLines:
    """Context manager whose `show` begins a stage; the line of a finished stage keeps the time it took."""

    def __init__(self) -> None:
        self._stage: str | None = None
        self._since = time.monotonic()
        self._is_terminal = sys.stderr.isatty()
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> "StageLines":
        if self._is_terminal:
            self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._is_terminal:
            self._ticker.join()
        self._finish("ok" if error is None else "--")

    def show(self, stage: str) -> None:
        """Begin a stage, unless it is the one that runs."""
        if stage == self._stage:
            return
        self._finish("ok")
        self._stage, self._since = stage, time.monotonic()

    def _finish(self, mark: str) -> None:
        if self._stage is None:
            return
        stage, self._stage = self._stage, None
        start = "\r\x1b[2K" if self._is_terminal else ""
        colour = "green" if mark == "ok" else "red"
        say(f"{start}  {paint(mark, colour, sys.stderr)} {stage:<28} {time.monotonic() - self._since:5.1f} s")

    def _tick(self) -> None:
        while not self._done.wait(_TICK_S):
            stage = self._stage
            if stage:
                clock = f"{time.monotonic() - self._since:5.1f} s"
                sys.stderr.write(f"\r\x1b[2K  .. {stage:<28} {clock}")
                sys.stderr.flush()


@contextmanager
def show_count(label: str, total: int) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task(label, total=total)
        yield lambda: progress.advance(bar)
