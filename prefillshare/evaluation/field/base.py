"""A suite of the field, and where its file is looked for."""

import gzip
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Question

DATA_VARIABLE = "PREFILLSHARE_DATA"


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldSuite:
    """Questions of a public benchmark."""

    name: str
    """Name of the suite."""
    questions: Sequence[Question]
    """The problems, in the order of the file."""
    max_new_tokens: int
    """Longest answer in tokens."""
    runs_code: bool = False
    """Whether its judge runs what the model wrote."""
    num_left_out: int = 0
    """Problems of the file that have no answer to compare with."""


def read_rows(file_name: str, directory: Path | None) -> list[dict[str, Any]]:
    """Rows of a JSONL file in `directory`, or else in $PREFILLSHARE_DATA.

    Raises: EvaluationError when it is not there or broken.
    """
    file = data_file(file_name, directory)
    if file is None:
        raise EvaluationError(f"{file_name} is looked for nowhere: give its directory with --data or ${DATA_VARIABLE}")
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            return [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError:
        raise EvaluationError(f"{file} does not exist: put the suite's file there, or correct --data") from None
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{file} cannot be read ({error}): download it again") from None


def data_file(file_name: str, directory: Path | None) -> Path | None:
    """The file in `directory`, or else in $PREFILLSHARE_DATA; None when neither is given."""
    known = os.environ.get(DATA_VARIABLE)
    where = directory or (Path(known) if known else None)
    return where / file_name if where else None
