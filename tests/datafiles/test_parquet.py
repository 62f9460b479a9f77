"""Columns give an object the keys of all others: what nobody wrote is not there."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from prefillshare.datafiles import BadRow, read_rows

ROWS: list[dict[str, Any]] = [
    {"m": [{"role": "user", "calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}], "x": 1},
    {
        "m": [
            {
                "role": "user",
                "calls": [{"name": "mail", "arguments": {"to": {"name": "Ida"}, "cc": [{"a": 1}, {"b": 2}]}}],
            }
        ]
    },
    {"m": [{"role": "assistant", "weight": 0, "calls": []}, {"role": "assistant", "calls": [{"arguments": {}}]}]},
    {"m": [], "x": 2},
]


def write(file: Path, table: Any, **settings: Any) -> Path:
    parquet.write_table(table, file, **settings)
    return file


def test_no_key_is_invented_at_any_depth(tmp_path: Path) -> None:
    read = list(read_rows(write(tmp_path / "rows.parquet", pa.Table.from_pylist(ROWS))))
    assert read == [{"x": None, **row} for row in ROWS]
    renamed = (tmp_path / "rows.parquet").rename(tmp_path / "rows.data")
    assert list(read_rows(renamed)) == read


def test_nulls_that_somebody_wrote_stay_where_they_can_be_told(tmp_path: Path) -> None:
    arguments = pa.array([[("city", "Oslo"), ("units", None)]], type=pa.map_(pa.string(), pa.string()))
    listed = pa.array([["a", None]])
    written = pa.array(['{"default": null}'], type=pa.json_())
    table = pa.table({"map": arguments, "list": listed, "json": written, "text": ['{"a": null}'], "column": [None]})
    (row,) = read_rows(write(tmp_path / "rows.parquet", table))
    assert row == {
        "map": {"city": "Oslo", "units": None},
        "list": ["a", None],
        "json": {"default": None},
        "text": '{"a": null}',
        "column": None,
    }


def test_a_damaged_row_group_costs_its_own_rows(tmp_path: Path) -> None:
    rows = [{"q": os.urandom(40).hex()} for _ in range(300)]
    file = write(
        tmp_path / "rows.parquet",
        pa.Table.from_pylist(rows),
        row_group_size=50,
        use_dictionary=False,
        compression="NONE",
    )
    content = bytearray(file.read_bytes())
    start = bytes(content).index(rows[100]["q"].encode())
    content[start - 40 : start] = os.urandom(40)
    file.write_bytes(content)
    read = list(read_rows(file))
    assert len(read) == 300
    assert read[:100] == rows[:100]
    assert read[150:] == rows[150:]
    assert all(isinstance(row, BadRow) and "row group 3 is damaged" in row.reason for row in read[100:150])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_cut_file_is_said(tmp_path: Path, share: float) -> None:
    file = write(tmp_path / "rows.parquet", pa.Table.from_pylist(ROWS))
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size) + 4])
    (row,) = read_rows(file)
    assert isinstance(row, BadRow)
    assert row.is_end
    assert "not Parquet, or cut off" in row.reason


def test_text_that_is_no_utf8_costs_its_row(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"caf\xe9"], type=pa.binary())
    table = pa.table({"q": pa.Array.from_buffers(pa.string(), 2, raw.buffers())})
    good, bad = read_rows(write(tmp_path / "rows.parquet", table))
    assert good == {"q": "good"}
    assert isinstance(bad, BadRow)
    assert "a value cannot be read" in bad.reason
