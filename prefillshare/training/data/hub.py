"""Rows of a data set of the hub, or of a directory in its form.

`datasets` finds the files and splits and fetches them. JSON, CSV and Parquet are then read row by row as files are,
not through `datasets`' tables, which give every object the keys of all others, guess types, and end at the first line
that does not fit.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.config.training import Data
from prefillshare.datafiles import BadRow
from prefillshare.datafiles import Row as FileRow
from prefillshare.datafiles import read_rows as read_data_file
from prefillshare.datafiles.columns import table_rows
from prefillshare.datafiles.files import Format
from prefillshare.datafiles.lines import find_unknown_packing
from prefillshare.errors import TrainingError, first_line
from prefillshare.training.data.chat import RowError

if TYPE_CHECKING:
    from datasets import DatasetBuilder

DATA_VARIABLE = "PREFILLSHARE_DATA"
_PAGE = 1000
_SEPARATED: dict[str, Format] = {",": "csv", "\t": "tsv"}

Row = dict[str, Any] | RowError
"""A row, or why it could not be read."""


def as_rows(rows: Iterable[FileRow], limit: int | None = None) -> list[Row]:
    """The first rows, in the words of training."""
    return [
        RowError("malformed", row.reason, is_end=row.is_end) if isinstance(row, BadRow) else dict(row)
        for row in islice(rows, limit)
    ]


def hub_rows(hub: str, subset: str | None, data: Data) -> Sequence[Row]:
    """The rows of one split.

    Effects: may download.
    Raises: TrainingError when the data set, its split, or all of its rows are missing.
    """
    split = data.split or "train"
    with _silence_hub():
        try:
            rows = _load_rows(hub, subset, split, data.revision)
        except Exception as error:  # the library raises its transport's own errors: all mean that there are no rows
            raise _describe_failure(hub, split, data, error) from None
    chosen = as_rows(rows, data.max_rows)
    if not chosen:
        raise TrainingError(f"data set {hub!r} has no rows in split {split!r}: choose another split")
    return chosen


def _describe_failure(hub: str, split: str, data: Data, error: Exception) -> TrainingError:
    source = f" (source {data.source!r})" if data.source else ""
    fix = f'file = "..." under [data], or ${DATA_VARIABLE}/{data.source}.jsonl' if data.source else 'file = "..."'
    return TrainingError(
        f"data set {hub!r}{source} with split {split!r} could not be loaded ({first_line(error)}): "
        f"check its name and the network, or download it elsewhere and give {fix}"
    )


def _load_rows(hub: str, subset: str | None, split: str, revision: str | None) -> Iterable[FileRow]:
    from datasets import load_dataset, load_dataset_builder

    builder = load_dataset_builder(hub, subset, revision=revision)
    kind = _format_of(builder)
    if kind is None:
        return _table_pages(load_dataset(hub, subset, split=split, revision=revision))
    return _choose_rows(split, {name: _split_rows(builder, name, kind) for name in _splits(split, builder)})


def _format_of(builder: "DatasetBuilder") -> Format | None:
    """How its files are read here; None for what only `datasets` can read."""
    from datasets.packaged_modules.csv.csv import Csv
    from datasets.packaged_modules.json.json import Json
    from datasets.packaged_modules.parquet.parquet import Parquet

    config: Any = builder.config
    if isinstance(builder, Parquet):
        return "parquet"
    if isinstance(builder, Json) and getattr(config, "field", None) is None:
        return "json"
    if isinstance(builder, Csv) and config.names is None and config.header == "infer":
        return _SEPARATED.get(config.delimiter or config.sep)
    return None


def _splits(split: str, builder: "DatasetBuilder") -> list[str]:
    """The splits that an instruction such as `train[:100]+test` names.

    Raises: ValueError when one does not exist.
    """
    known = list(builder.config.data_files or ())
    names = [part.partition("[")[0].strip() for part in split.split("+")]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"there is no split {unknown[0]!r}, only {', '.join(map(str, known))}")
    return names


def _split_rows(builder: "DatasetBuilder", split: str, kind: Format) -> list[FileRow]:
    from datasets import DownloadManager

    files = [str(file) for file in builder.config.data_files[split]]
    manager: Any = DownloadManager(dataset_name=builder.dataset_name)
    rows: list[FileRow] = []
    for name, file in zip(files, manager.download(files), strict=True):
        unpacked = manager.extract(file) if find_unknown_packing(Path(file)) else file
        parts = (read_data_file(Path(part), kind) for part in manager.iter_files(unpacked))
        rows += (_add_file_name(row, name) for row in chain.from_iterable(parts))
    return rows


def _add_file_name(row: FileRow, name: str) -> FileRow:
    if not isinstance(row, BadRow):
        return row
    return BadRow(reason=f"{name.rpartition('/')[2]}: {row.reason}", is_end=row.is_end)


def _choose_rows(split: str, rows: dict[str, list[FileRow]]) -> list[FileRow]:
    """The rows that a split with slices means."""
    from datasets import ReadInstruction

    parts = ReadInstruction.from_spec(split).to_absolute({name: len(found) for name, found in rows.items()})
    return list(chain.from_iterable(rows[part.splitname][part.from_ : part.to] for part in parts))


def _table_pages(dataset: Any) -> Iterator[FileRow]:
    """Rows of a data set that `datasets` has read into tables."""
    pages = dataset.with_format("arrow")
    for start in range(0, len(pages), _PAGE):
        yield from table_rows(pages[start : start + _PAGE])


@contextmanager
def _silence_hub() -> Iterator[None]:
    """The hub client's retries are not news: what came of them is said in the end."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
