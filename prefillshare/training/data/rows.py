"""Where rows come from: a file, or a data set of the hub; local files first."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prefillshare.config.tables import suggest_nearest
from prefillshare.config.training import Columns, Data
from prefillshare.datafiles import read_rows as read_data_file
from prefillshare.errors import TrainingError, first_line
from prefillshare.training.data.chat import RowError
from prefillshare.training.data.hub import DATA_VARIABLE, Row, as_rows, hub_rows
from prefillshare.training.data.mapping import SOURCES, Mapper, columns_of, mapper_of

FORMATS = "give a whole file of JSONL, CSV or Parquet"

__all__ = ["DATA_VARIABLE", "MappedRows", "Row", "read_rows"]


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
    mapper = known.mapper if known else mapper_of(_declared_columns(data))
    columns = known.columns if known else columns_of(_declared_columns(data))
    file = data.file or _local_file(data)
    hub = known.hub if known else str(data.hub)
    origin = str(file) if file else hub
    subset = data.subset or (known.subset if known else None)
    rows: Sequence[Row] = _file_rows(file, data.max_rows) if file else hub_rows(hub, subset, data)
    _check_columns(origin, rows, columns)
    return MappedRows(origin=origin, rows=rows, mapper=mapper)


def _declared_columns(data: Data) -> Columns:
    assert data.columns is not None, "the training file was checked"
    return data.columns


def _local_file(data: Data) -> Path | None:
    directory = os.environ.get(DATA_VARIABLE)
    if not directory or data.source is None:
        return None
    file = Path(directory) / f"{data.source}.jsonl"
    return file if file.is_file() else None


def _file_rows(file: Path, max_rows: int | None) -> list[Row]:
    try:
        rows = as_rows(read_data_file(file), max_rows)
    except OSError as error:
        raise TrainingError(f"data file {file} cannot be read ({first_line(error)}): {FORMATS}") from None
    if not rows:
        raise TrainingError(f"data file {file} has no rows: {FORMATS}")
    return rows


def _check_columns(origin: str, rows: Sequence[Row], columns: Sequence[str]) -> None:
    names = list({name: None for row in rows if not isinstance(row, RowError) for name in row})
    if not names:
        first = next((f"row 1: {row.detail}" for row in rows if isinstance(row, RowError)), "its rows are empty")
        raise TrainingError(f"{origin} cannot be read ({first}): {FORMATS}")
    for column in columns:
        if column not in names:
            raise TrainingError(
                f"{origin} has no column {column!r}: {suggest_nearest(column, names)}; correct [data.columns], source "
                "or file"
            )
