"""Rows of Arrow tables and Parquet files.

A column of objects has every key that any row has, and where a row has none, a null. Nobody wrote it, so keys of
objects whose value is null are dropped, at every depth. A null that somebody wrote cannot be told from it. Nulls in
lists and maps, in JSON text, and in a whole column stay: nothing puts them there by itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefillshare.datafiles.rows import BadRow, Row
from prefillshare.errors import first_line

if TYPE_CHECKING:
    import pyarrow as pa

_JSON = "arrow.json"


def parquet_rows(file: Path) -> Iterator[Row]:
    """Rows of a Parquet file; a damaged row group costs its own rows.

    Raises: OSError when the file cannot be opened.
    """
    import pyarrow as pa
    from pyarrow import parquet

    with file.open("rb") as stream:
        try:
            opened = parquet.ParquetFile(stream)
        except (pa.ArrowException, OSError) as error:
            yield BadRow(reason=f"the file is not Parquet, or cut off ({first_line(error)})", is_end=True)
            return
        for number in range(opened.num_row_groups):
            try:
                table = opened.read_row_group(number)
            except (pa.ArrowException, OSError) as error:
                bad = BadRow(reason=f"its row group {number + 1} is damaged ({first_line(error)})")
                yield from [bad] * opened.metadata.row_group(number).num_rows
                continue
            yield from table_rows(table)


def table_rows(table: "pa.Table") -> Iterator[Row]:
    """Rows of a table."""
    for batch in table.to_batches():
        columns = list(zip(batch.schema, batch.columns, strict=True))
        for number in range(batch.num_rows):
            try:
                yield {field.name: _plain(column[number].as_py(), field.type) for field, column in columns}
            except (ValueError, OverflowError, RecursionError) as error:
                yield BadRow(reason=f"a value cannot be read ({first_line(error)})")


def _plain(value: Any, kind: "pa.DataType") -> Any:
    """A value as JSON would have it."""
    from pyarrow import types

    if value is None:
        return None
    if types.is_struct(kind):
        kept = ((field, value[field.name]) for field in kind)
        return {field.name: _plain(item, field.type) for field, item in kept if item is not None}
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return [_plain(item, kind.value_type) for item in value]
    if types.is_map(kind):
        return {key: _plain(item, kind.item_type) for key, item in value}
    if getattr(kind, "extension_name", None) == _JSON and isinstance(value, str):
        return json.loads(value)
    return value
