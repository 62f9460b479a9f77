"""How a run shows what it does: a bar on a terminal, plain lines elsewhere. Everything goes to stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """State of a run at one step."""

    name: str
    """Name of the run."""
    step: int
    """Steps done."""
    num_steps: int
    """Steps of the whole run."""
    loss: float
    """Mean loss since the last report."""
    learning_rate: float
    """Learning rate of the last step."""
    gradient_norm: float
    """Norm of the last gradient before clipping."""
    tokens_per_s: float
    """Tokens per second since the last report."""
    remaining_s: float
    """Estimate of the seconds to go."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class Reporter(Protocol):
    """Where reports go."""

    def say(self, text: str) -> None: ...
    def show(self, report: Report) -> None: ...


class LineReporter:
    """One line per `every`-th report."""

    def __init__(self, every: int = 5) -> None:
        self._every, self._count = every, 0

    def say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, report: Report) -> None:
        self._count += 1
        if self._count % self._every == 0 or report.step == report.num_steps:
            self.say(
                f"{report.name}: step {report.step}/{report.num_steps} loss {report.loss:.4f} "
                f"{report.tokens_per_s:.0f} tokens/s, {report.remaining_s / 60:.1f} min to go"
            )


class BarReporter:
    """A progress bar per run."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[figures]}"),
            console=Console(stderr=True),
        )
        self._bars: dict[str, Any] = {}
        self._progress.start()

    def say(self, text: str) -> None:
        self._progress.console.print(text)

    def show(self, report: Report) -> None:
        figures = f"loss {report.loss:.3f}  {report.tokens_per_s:.0f} tok/s  {report.remaining_s / 60:.1f} min to go"
        if report.name not in self._bars:
            self._bars[report.name] = self._progress.add_task(report.name, total=report.num_steps, figures=figures)
        self._progress.update(self._bars[report.name], completed=report.step, figures=figures)
        if report.step == report.num_steps:
            self._progress.refresh()

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def make_reporter() -> Iterator[Reporter]:
    """A bar if a person watches, lines if not."""
    if not sys.stderr.isatty():
        yield LineReporter()
        return
    bars = BarReporter()
    try:
        yield bars
    finally:
        bars.close()
