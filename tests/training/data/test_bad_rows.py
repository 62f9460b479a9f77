"""No row ends a run, and no reader puts something into a row: whatever the format, and wherever it lies."""

import errno
import gzip
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pytest
from pyarrow import parquet
from transformers import AutoTokenizer

from prefillshare.config.training import Columns, Data
from prefillshare.errors import TrainingError
from prefillshare.training.data import tokenise
from prefillshare.training.data.prepare import Prepared, prepare
from tests.support.served_chats import answer, call, user
from tests.training.data.test_data import TINY, training

MESSAGES = Columns(messages="m")
GOOD = {"m": [user("hi"), answer("yes")]}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(TINY)


def prepared(tokenizer: Any, **data: Any) -> Prepared:
    return prepare(training(Data(**{"columns": MESSAGES, **data}), max_tokens=2000), tokenizer)


def texts(found: Prepared, tokenizer: Any) -> list[str]:
    return [tokenizer.decode(document.tokens) for row in found.training for document in row]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_a_machine_without_room_is_no_fault_of_the_rows(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps(GOOD) + "\n")

    def find_no_room(*arguments: Any) -> NoReturn:
        # What is imported for the first row writes below the folder for temporary files.
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tokenise, "ServedChat", find_no_room)
    with pytest.raises(TrainingError, match=r"could not be tokenised \(OSError.*: free some space in"):
        prepared(tokenizer, file=rows)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([user("cut \ud83d"), answer("a")], "half of a surrogate pair"),
        ([user("hi"), answer("\udc00")], "half of a surrogate pair"),
        ([user("hi"), answer("", tool_calls=[call({"a": "\ud83d"})])], "half of a surrogate pair"),
        ([user("hi"), answer("", tool_calls=[call({"\ud83d": 1})])], "half of a surrogate pair"),
        ([user("hi"), answer("", tool_calls=[call({"a": nested(900)})])], "recursion"),
        ([user("hi"), answer("", tool_calls=[call('{"a": NaN}')])], "must be valid JSON"),
        ([user("hi"), answer("", tool_calls=[{"function": {"name": None}}])], "chat template refuses"),
        ([user("hi"), answer("a", weight=float("nan"))], "weight nan"),
        ([user("hi"), answer("a", weight=[])], r"weight \[\]"),
        ([{"role": ["user"], "content": "hi"}, answer("a")], "needs a role"),
    ],
)
def test_a_row_that_cannot_be_rendered_is_counted(tmp_path: Path, tokenizer: Any, messages: Any, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, (GOOD, {"m": messages}, GOOD))))
    report = prepared(tokenizer, file=file).report
    assert (report.num_used, report.left_out["malformed"]) == (2, 1)
    (example,) = report.examples["malformed"]
    assert example.startswith("row 2: ")
    assert re.search(said, example)


def test_rows_before_a_cut_are_used_and_the_cut_is_always_said(tmp_path: Path, tokenizer: Any) -> None:
    lines = ["{"] * 5 + [json.dumps({"m": [user(f"{number} and {7 * number}"), answer("a")]}) for number in range(400)]
    packed = gzip.compress("\n".join(lines).encode())
    file = tmp_path / "rows.jsonl.gz"
    file.write_bytes(packed[: len(packed) // 2])
    report = prepared(tokenizer, file=file).report
    assert report.num_used > 100
    assert report.left_out["malformed"] == 6
    assert report.lines()[-1].startswith(f"warning: row {report.num_rows}: the file is cut or damaged from here on")


@pytest.mark.parametrize("content", [b"\x1f\x8b\x08", b"PAR1 and no more", b"PK\x03\x04", b"\xff\xfe\x00"])
def test_a_file_without_a_row_is_one_sentence(tmp_path: Path, tokenizer: Any, content: bytes) -> None:
    (tmp_path / "rows.jsonl").write_bytes(content)
    with pytest.raises(TrainingError, match=r"rows.jsonl cannot be read \(.*give a whole file") as caught:
        prepared(tokenizer, file=tmp_path / "rows.jsonl")
    assert "\n" not in str(caught.value)


COLUMNAR: list[dict[str, Any]] = [
    {"m": [user("go"), answer(None, tool_calls=[call({"city": "Oslo"})])], "t": [{"name": "f", "description": "F"}]},
    {"m": [user("go"), answer("", tool_calls=[call({"to": "Ida", "at": {"x": 1}}, name="mail")])], "t": None},
    {"m": [user("a"), answer("b", weight=0), user("c"), answer("d", weight=1)], "t": [{"name": "g"}]},
    {"m": [user("a"), answer("", tool_calls=[call({})])], "t": []},
]


def as_parquet(directory: Path) -> Path:
    parquet.write_table(pa.Table.from_pylist(COLUMNAR), directory / "train.parquet")
    return directory / "train.parquet"


def as_json_lines(directory: Path) -> Path:
    (directory / "train.jsonl").write_text("\n".join(map(json.dumps, COLUMNAR)))
    return directory / "train.jsonl"


def as_arrow(directory: Path) -> Path:
    from datasets import Dataset

    Dataset.from_list(COLUMNAR).save_to_disk(directory / "saved")
    (file,) = (directory / "saved").glob("*.arrow")
    return file.rename(directory / "train.arrow")


@pytest.mark.parametrize("written", [as_parquet, as_json_lines, as_arrow])
def test_columns_add_nothing_to_a_row(tmp_path: Path, tokenizer: Any, written: Callable[[Path], Path]) -> None:
    columns = Columns(messages="m", tools="t")
    (tmp_path / "set").mkdir()
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, COLUMNAR)))
    wanted = texts(prepared(tokenizer, file=tmp_path / "rows.jsonl", columns=columns), tokenizer)
    assert len(wanted) == 4
    assert not any(
        "null" in text.replace('"description": null, ', "").replace('"parameters": null, ', "") for text in wanted
    )
    file = written(tmp_path / "set")
    found = prepared(tokenizer, hub=str(tmp_path / "set"), columns=columns)
    assert found.report.num_used == 4
    assert texts(found, tokenizer) == wanted
    if file.suffix != ".arrow":
        assert texts(prepared(tokenizer, file=file, columns=columns), tokenizer) == wanted


def test_lines_of_a_data_set_are_read_as_they_are(tmp_path: Path, tokenizer: Any) -> None:
    """Tables would guess dates, make one type of two, and end at a bad line."""
    rows = [{"m": [user("go"), answer("", tool_calls=[call({"a": value})])]} for value in ("2024-01-01", 1, 1.5, None)]
    (tmp_path / "train.jsonl").write_text("\n".join([*map(json.dumps, rows), "{bad"]))
    (tmp_path / "test.jsonl").write_text(json.dumps(GOOD))
    found = prepared(tokenizer, hub=str(tmp_path))
    shown = [text.rpartition('"arguments": ')[2].partition("}")[0] for text in texts(found, tokenizer)]
    assert shown == ['{"a": "2024-01-01"', '{"a": 1', '{"a": 1.5', '{"a": null']
    assert found.report.examples["malformed"] == ["row 5: train.jsonl: the line is not JSON: {bad"]
    assert prepared(tokenizer, hub=str(tmp_path), split="train[1:3]+test").report.num_used == 3
    with pytest.raises(TrainingError, match="there is no split 'dev', only"):
        prepared(tokenizer, hub=str(tmp_path), split="dev")


def test_a_damaged_file_of_a_data_set_costs_itself(tmp_path: Path, tokenizer: Any) -> None:
    whole = as_parquet(tmp_path).read_bytes()
    (tmp_path / "train.parquet").rename(tmp_path / "train-1.parquet")
    (tmp_path / "train-0.parquet").write_bytes(whole[:-20])
    report = prepared(tokenizer, hub=str(tmp_path)).report
    assert (report.num_used, report.left_out["malformed"]) == (4, 1)
    assert "train-0.parquet: the file is not Parquet, or cut off" in report.ends[0]


def test_a_row_may_have_no_functions_and_no_system_text(tmp_path: Path, tokenizer: Any) -> None:
    rows = [
        {"q": "a", "a": "b", "s": "sys", "t": '[{"name": "f"}]'},
        {"q": "a", "a": "b", "s": None},
        {"q": "a", "a": "b"},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = Columns(prompt="q", answer="a", system="s", tools="t")
    first, *others = texts(prepared(tokenizer, file=tmp_path / "rows.jsonl", columns=columns), tokenizer)
    assert "sys" in first
    assert '"name": "f"' in first
    assert others == ["<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>"] * 2
