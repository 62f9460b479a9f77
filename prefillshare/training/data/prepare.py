"""All of a run's data: documents to train on, documents held out, and what was left out and why."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from prefillshare.config.training import Data, Training
from prefillshare.errors import TrainingError
from prefillshare.training.data.chat import REASONS, Chat, Reason, RowError
from prefillshare.training.data.rows import MappedRows, read_rows
from prefillshare.training.data.tokenise import documents_of_chat
from prefillshare.training.shard import Document

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NUM_EXAMPLES = 3

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class RowReport:
    """What became of the rows."""

    origin: str
    """Where they came from."""
    num_rows: int = 0
    """Rows read."""
    num_used: int = 0
    """Rows that became documents."""
    left_out: dict[Reason, int] = field(default_factory=lambda: dict.fromkeys(REASONS, 0))
    """Rows left out, by reason."""
    examples: dict[Reason, list[str]] = field(default_factory=lambda: {reason: [] for reason in REASONS})
    """The first few of each, with row number and detail."""
    ends: list[str] = field(default_factory=list)
    """Where a file is cut or damaged, so that nothing behind could be read."""

    def leave_out(self, number: int, error: RowError) -> None:
        self.left_out[error.reason] += 1
        text = f"row {number}: {error.detail}"
        if error.is_end:
            self.ends.append(text)
        elif len(self.examples[error.reason]) < NUM_EXAMPLES:
            self.examples[error.reason].append(text)

    def lines(self) -> list[str]:
        """The report for people."""
        out = [f"rows      {self.num_rows} from {self.origin}, {self.num_used} used"]
        for reason, count in self.left_out.items():
            out.append(f"  {reason:<10} {count}")
            out += [f"    {example}" for example in self.examples[reason]]
        return out + [f"warning: {end}" for end in self.ends]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Documents of a run."""

    training: list[list[Document]]
    """Documents of each row to train on."""
    held_out: list[list[Document]]
    """Documents of each row held out."""
    report: RowReport
    """What became of the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Rows that nothing is learned from."""

    rows: int
    """How many of the last ones."""
    table: str
    """The table of the user's file that says it."""


def prepare(training: Training, tokenizer: "PreTrainedTokenizerBase") -> Prepared:
    """Read, map and tokenise the data of a training run, as :func:`prepare_data` does."""
    held_out = Rest(rows=training.evaluation.rows, table="evaluation")
    return prepare_data(training.data, tokenizer, max_tokens=training.batch.max_tokens, held_out=held_out)


def prepare_data(data: Data, tokenizer: "PreTrainedTokenizerBase", *, max_tokens: int, held_out: Rest) -> Prepared:
    """Read, map and tokenise data.

    Raises: TrainingError when no row can be used, or all would be held out.
    """
    usable, report = prepare_rows(data, tokenizer, max_tokens)
    num_held_out = held_out.rows
    if num_held_out >= len(usable):
        raise TrainingError(
            f"rows = {num_held_out} under [{held_out.table}] leaves none of {len(usable)} usable rows to train on: "
            "lower it"
        )
    split = len(usable) - num_held_out
    return Prepared(
        training=usable[:split],
        held_out=usable[split:],
        report=report,
    )


def prepare_rows(
    data: Data, tokenizer: "PreTrainedTokenizerBase", max_tokens: int
) -> tuple[list[list[Document]], RowReport]:
    """Read, map and tokenise rows: the documents of each one that can be used, and what became of all.

    Raises: TrainingError when none can be.
    """
    return usable_rows(data, partial(documents_of_chat, tokenizer=tokenizer, max_tokens=max_tokens))


def usable_rows(data: Data, make: Callable[[Chat], T]) -> tuple[list[T], RowReport]:
    """Read and map rows, and return what `make` makes of each one that can be used, and what became of all.

    Raises: TrainingError when none can be.
    """
    mapped = read_rows(data)
    report = RowReport(origin=mapped.origin)
    usable = list(_usable(mapped, make, report))
    if not usable:
        raise TrainingError(f"no row of {mapped.origin} can be used: {_first_example(report)}")
    return usable, report


def _usable(mapped: MappedRows, make: Callable[[Chat], T], report: RowReport) -> Iterable[T]:
    for number, row in enumerate(mapped.rows, start=1):
        report.num_rows += 1
        try:
            if isinstance(row, RowError):
                raise row
            made = _make(mapped, row, make)
        except RowError as error:
            report.leave_out(number, error)
            continue
        report.num_used += 1
        yield made


def _make(mapped: MappedRows, row: Mapping[str, Any], make: Callable[[Chat], T]) -> T:
    try:
        return make(mapped.mapper(row).check())
    except RecursionError:
        raise RowError("malformed", "it is nested too deeply") from None


def _first_example(report: RowReport) -> str:
    counts = ", ".join(f"{count} {reason}" for reason, count in report.left_out.items() if count)
    first = next(iter([*(example for examples in report.examples.values() for example in examples), *report.ends]))
    return f"{counts} (such as {first}): correct the mapping, the data or max_tokens"
