"""A data file's rows, by its format.

Formats: JSON lines (.jsonl, and whatever has no other name), one JSON array (.json), CSV (.csv, .tsv), Parquet. All
but Parquet may be compressed.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from prefillshare.datafiles.columns import parquet_rows
from prefillshare.datafiles.csv_rows import csv_rows
from prefillshare.datafiles.json_rows import json_file, json_lines
from prefillshare.datafiles.lines import read_lines
from prefillshare.datafiles.rows import Row

Format = Literal["jsonl", "json", "csv", "tsv", "parquet"]
_PACKED = (".gz", ".bz2", ".xz")
_FORMATS: dict[str, Format] = {".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_PARQUET_MARK = b"PAR1"


def read_rows(file: Path, kind: Format | None = None) -> Iterator[Row]:
    """The rows of a file, in its order; what cannot be read is a `BadRow` in its place.

    Raises: OSError when the file cannot be opened, or is packed in a way that is not known.
    """
    kind = kind or _format_of(file)
    if kind == "parquet":
        return parquet_rows(file)
    lines = read_lines(file)
    if kind in ("csv", "tsv"):
        return csv_rows(lines, "\t" if kind == "tsv" else ",")
    return json_file(lines) if kind == "json" else json_lines(lines)


def _format_of(file: Path) -> Format:
    with file.open("rb") as stream:
        if stream.read(len(_PARQUET_MARK)) == _PARQUET_MARK:
            return "parquet"
    name = file.with_suffix("") if file.suffix in _PACKED else file
    return _FORMATS.get(name.suffix.lower(), "jsonl")
