"""A suite of the field, read from its file in the directory of --data or $PREFILLSHARE_DATA."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prefillshare.datafiles import keep, read_rows
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Question

DATA_VARIABLE = "PREFILLSHARE_DATA"
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSuite:
    """Questions of a public benchmark."""

    name: str
    """Name of the suite."""
    questions: Sequence[Question]
    """The problems, in the order of the file."""
    max_new_tokens: int
    """Longest answer in tokens."""
    left_out: Sequence[str] = ()
    """Rows of the file that are no problem with an answer to compare with, each with its number and the reason."""


def read_problems(
    file_name: str, directory: Path | None, make: Callable[[Mapping[str, Any]], Made]
) -> tuple[list[Made], list[str]]:
    """What `make` makes of a file in `directory`, or else in $PREFILLSHARE_DATA, and why rows are left out.

    Raises: EvaluationError when it is not there or has no problem.
    """
    file = data_file(file_name, directory)
    if file is None:
        raise EvaluationError(
            f"no directory is given for {file_name}: set --data or ${DATA_VARIABLE} to the one it is in"
        )
    return problems_of(file, make)


def problems_of(file: Path, make: Callable[[Mapping[str, Any]], Made]) -> tuple[list[Made], list[str]]:
    """The same of a file.

    Raises: EvaluationError.
    """
    try:
        problems, left_out = keep(read_rows(file), make)
    except FileNotFoundError:
        raise EvaluationError(f"{file} does not exist: put the suite's file there, or correct --data") from None
    except OSError as error:
        raise EvaluationError(f"{file} cannot be read ({error}): download it again") from None
    if not problems:
        reason = left_out[0] if left_out else "it is empty"
        raise EvaluationError(f"{file} has no problem that can be read ({reason}): download it again")
    return problems, left_out


def data_file(file_name: str, directory: Path | None) -> Path | None:
    """The file in `directory`, or else in $PREFILLSHARE_DATA; None when neither is given."""
    known = os.environ.get(DATA_VARIABLE)
    where = directory or (Path(known) if known else None)
    return where / file_name if where else None
