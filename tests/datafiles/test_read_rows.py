"""One row that cannot be read costs itself: it is said in its place, and all others are there."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from prefillshare.datafiles import BadRow, keep, read_rows, require_text, summarise_left_out

GOOD = [{"q": f"number {number}?", "a": "é\u2028\x85 one"} for number in range(3)]
LINES = [json.dumps(row, ensure_ascii=False) for row in GOOD]
TEXT = "\n".join(LINES) + "\n"
# Rows of which a packed file of half the length still has some.
MANY = "".join(f"{json.dumps({'q': Random(number).randbytes(20).hex()})}\n" for number in range(5000)).encode()


def rows_of(tmp_path: Path, content: bytes, name: str = "rows.jsonl") -> list[Any]:
    file = tmp_path / name
    file.write_bytes(content)
    return list(read_rows(file))


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode(),
        TEXT.replace("\n", "\r\n").encode(),
        TEXT.replace("\n", "\r").encode(),
        TEXT.replace("\n", "\n \n\n").encode().rstrip(),
        b"\xef\xbb\xbf" + TEXT.encode(),
        ("\ufeff" + "\n\ufeff".join(LINES)).encode(),
        TEXT.encode("utf-16"),
        TEXT.encode("utf-16-le"),
        TEXT.encode("utf-16-be"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        gzip.compress(TEXT.encode()),
        gzip.compress(LINES[0].encode() + b"\n") + gzip.compress("\n".join(LINES[1:]).encode()),
        bz2.compress(TEXT.encode("utf-16")),
        lzma.compress(TEXT.encode()),
    ],
)
def test_packing_encoding_and_line_ends_are_seen(tmp_path: Path, content: bytes) -> None:
    assert rows_of(tmp_path, content) == GOOD


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{not json", "the line is not JSON: {not json"),
        (LINES[0].encode()[:20], "the line is not JSON"),
        (LINES[0].encode() * 2, "the line is not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'{"q": "caf\xe9"}', "not UTF-8 (byte 0xe9 at 11)"),
        (b'{"q": "\x00"}', "not JSON"),
        (b"\x00" * 64, "not JSON"),
        (b'{"q":' + b"[" * 99999 + b"]" * 99999 + b"}", "nested too deeply"),
        (b'{"q":' * 99999 + b"1" + b"}" * 99999, "nested too deeply"),
        (b'{"q": ' + b"9" * 5000 + b"}", "4300 digits"),
    ],
)
def test_a_bad_line_costs_itself(tmp_path: Path, line: bytes, reason: str) -> None:
    first, bad, last = rows_of(tmp_path, LINES[0].encode() + b"\n" + line + b"\n" + LINES[1].encode())
    assert [first, last] == GOOD[:2]
    assert reason in bad.reason
    assert not bad.is_end


def _flipped(content: bytes) -> bytes:
    return content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 0xFF]) + content[len(content) // 2 + 1 :]


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(MANY)[: len(gzip.compress(MANY)) // 2],
        gzip.compress(MANY)[:-4],
        _flipped(gzip.compress(MANY)),
        gzip.compress(MANY) + b"rubbish",
        lzma.compress(MANY)[: len(lzma.compress(MANY)) // 2],
        MANY.decode().encode("utf-16")[:-7],
    ],
)
def test_rows_before_the_end_of_a_cut_file_are_used(tmp_path: Path, content: bytes) -> None:
    *rows, last = rows_of(tmp_path, content, "rows.jsonl.gz")
    assert last.is_end
    assert "the file is cut or damaged" in last.reason
    wanted = MANY.splitlines()
    good = [row for row in rows if not isinstance(row, BadRow)]
    assert len(good) > 1000
    assert good[:1000] == [json.loads(line) for line in wanted[:1000]]


def test_a_packing_that_is_not_known_is_said(tmp_path: Path) -> None:
    for mark in (b"PK\x03\x04", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf"):
        with pytest.raises(OSError, match="unpack it"):
            rows_of(tmp_path, mark + b"more")


def _broken(text: str) -> str:
    return text.replace('"number 1?"', "number 1?")


@pytest.mark.parametrize("written", [json.dumps, lambda rows: json.dumps(rows, indent=2)])
@pytest.mark.parametrize("spoiled", [lambda text: text, _broken, lambda text: text[:-20]])
def test_an_array_of_rows(tmp_path: Path, written: Callable[[Any], str], spoiled: Callable[[str], str]) -> None:
    whole = written(GOOD)
    rows = rows_of(tmp_path, spoiled(whole).encode(), "rows.json")
    good = [row for row in rows if not isinstance(row, BadRow)]
    if spoiled(whole) == whole:
        assert rows == GOOD
    elif spoiled is _broken:
        assert good == [GOOD[0], GOOD[2]]
        assert len(rows) == 3
    else:
        assert good == GOOD[:2]
        assert rows[-1].is_end


def test_json_may_be_lines_after_all(tmp_path: Path) -> None:
    assert rows_of(tmp_path, TEXT.encode(), "rows.json") == GOOD


def test_values_of_csv_are_text(tmp_path: Path) -> None:
    content = '\ufeffq,a\r\n042,NA\r\n"two\r\nlines","b, ""c"""\r\nshort\r\nx,,\r\nlast,\r\n'
    rows = rows_of(tmp_path, content.encode(), "rows.csv")
    assert rows[:2] == [{"q": "042", "a": "NA"}, {"q": "two\nlines", "a": 'b, "c"'}]
    assert [row.reason for row in rows[2:4]] == [
        f"the line has {num} fields, and the first line names 2 columns" for num in (1, 3)
    ]
    assert rows[4] == {"q": "last", "a": ""}
    assert rows_of(tmp_path, gzip.compress(b"q\ta\n1\t2\n"), "rows.tsv.gz") == [{"q": "1", "a": "2"}]
    assert [type(row) for row in rows_of(tmp_path, b"q\nx\ncaf\xe9\ny\n", "rows.csv")] == [dict, BadRow, dict]


def test_rows_are_kept_or_left_out_with_number_and_reason() -> None:
    def rows() -> Iterator[Any]:
        yield {"q": "a"}
        yield BadRow(reason="no JSON")
        yield from ({"q": 3}, {"p": "a"}, {"q": "b"}, {"q": "c"})

    kept, left_out = keep(rows(), lambda row: require_text(row, "q"), limit=2)
    assert kept == ["a", "b"]
    assert left_out == ["row 2: no JSON", "row 3: q is 3, not text", "row 4: no 'q'"]
    assert summarise_left_out(["a", "b", "c", "d"]) == "4 rows are left out (a; b; c; and 1 more)"
