"""The comparison table of the tiny family, and its place in models/README.md."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import Score

BEGIN = "<!-- accuracy table: written by `prefillshare models evaluate tiny` -->"
END = "<!-- end of accuracy table -->"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One way of answering, over all suites."""

    label: str
    """What answers, over whose KV."""
    scores: tuple[Score, ...]
    """One score per suite."""


def markdown_table(rows: Sequence[Row]) -> str:
    """Accuracy with its 95 % Wilson interval and counts, one row per way of answering."""
    suites = [score.suite for score in rows[0].scores]
    lines = [f"| | {' | '.join(suites)} |", f"|---|{'---|' * len(suites)}"]
    lines += [f"| {row.label} | {' | '.join(_cell(score) for score in row.scores)} |" for row in rows]
    return "\n".join(lines)


def write_between_markers(readme: Path, text: str) -> None:
    """Replace what stands between the two markers.

    Raises: EvaluationError when the file lacks them.
    """
    old = readme.read_text()
    before, begin, rest = old.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise EvaluationError(f"{readme} lacks the lines {BEGIN} and {END}: put them where the table should go")
    readme.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _cell(score: Score) -> str:
    low, high = score.interval
    return f"{score.accuracy:.1%} ({score.num_right}/{len(score.samples)}, {low:.1%} to {high:.1%})"
