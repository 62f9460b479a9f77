"""Where rows come from: a JSONL file, or a data set of the hub; local files first."""

import gzip
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from prefillshare.config.tables import nearest
from prefillshare.config.training import Columns, Data
from prefillshare.errors import TrainingError, first_line
from prefillshare.training.data.chat import RowError
from prefillshare.training.data.mapping import SOURCES, Mapper, columns_of, mapper_of

DATA_VARIABLE = "PREFILLSHARE_DATA"

Row = Mapping[str, Any] | RowError
"""A row, or why its line could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MappedRows:
    """Rows with the mapping that turns each into a chat."""

    origin: str
    """Where they came from, for people."""
    rows: Sequence[Row]
    """In the order of the data set."""
    mapper: Mapper
    """Row into chat."""


def read_rows(data: Data) -> MappedRows:
    """Read what `[data]` names.

    Effects: may download from the hub.
    Raises: TrainingError when nothing is there, or no row has a mapped column.
    """
    known = SOURCES[data.source] if data.source else None
    mapper = known.mapper if known else mapper_of(_declared(data))
    columns = known.columns if known else columns_of(_declared(data))
    file = data.file or _local_file(data)
    hub = known.hub if known else str(data.hub)
    origin = str(file) if file else hub
    subset = data.subset or (known.subset if known else None)
    rows: Sequence[Row] = _jsonl_rows(file, data.max_rows) if file else _hub_rows(hub, subset, data)
    _check_columns(origin, rows, columns)
    return MappedRows(origin=origin, rows=rows, mapper=mapper)


def _declared(data: Data) -> Columns:
    assert data.columns is not None, "the training file was checked"
    return data.columns


def _local_file(data: Data) -> Path | None:
    directory = os.environ.get(DATA_VARIABLE)
    if not directory or data.source is None:
        return None
    file = Path(directory) / f"{data.source}.jsonl"
    return file if file.is_file() else None


def _jsonl_rows(file: Path, max_rows: int | None) -> list[Row]:
    opened = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rt", encoding="utf-8") as lines:
            rows = [_json_row(line) for line in islice((line for line in lines if line.strip()), max_rows)]
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"data file {file} cannot be read ({error}): give a JSONL file in UTF-8") from None
    if not rows:
        raise TrainingError(f"data file {file} has no rows: give a JSONL file with one object per line")
    return rows


def _json_row(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError:
        return RowError("malformed", f"the line is no JSON: {line.strip()[:60]}")
    return row if isinstance(row, dict) else RowError("malformed", f"the line is no JSON object: {line.strip()[:60]}")


def _hub_rows(hub: str, subset: str | None, data: Data) -> Sequence[Row]:
    from datasets import load_dataset

    # The hub client's retries are not news: what came of them is said below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    split = data.split or "train"
    try:
        rows = load_dataset(hub, subset, split=split, revision=data.revision)
    except Exception as error:  # the library raises its transport's own errors: all mean that there are no rows
        source = f" (source {data.source!r})" if data.source else ""
        fix = f'file = "..." under [data], or ${DATA_VARIABLE}/{data.source}.jsonl' if data.source else 'file = "..."'
        raise TrainingError(
            f"data set {hub!r}{source} with split {split!r} could not be loaded ({first_line(error)}): "
            f"check its name and the network, or download it elsewhere and give {fix}"
        ) from None
    chosen = rows if data.max_rows is None else rows.select(range(min(data.max_rows, len(rows))))
    if not len(chosen):
        raise TrainingError(f"data set {hub!r} has no rows in split {split!r}: choose another split")
    return chosen


def _check_columns(origin: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    names = getattr(rows, "column_names", None)
    if names is None:
        names = list({name: None for row in rows if not isinstance(row, RowError) for name in row})
    for column in columns:
        if column not in names:
            hint = nearest(column, names) if names else "its lines are no JSON objects"
            raise TrainingError(f"{origin} has no column {column!r}: {hint}; correct [data.columns], source or file")
