"""Lines of a text file, whatever its compression and encoding.

The bytes decide, not the file's name: gzip, bzip2 and xz are unpacked, UTF-8, UTF-16 and UTF-32 are decoded, with or
without a byte-order mark. In UTF-8 a line is decoded by itself, so that bytes of another encoding cost one line.
Lines end with \\n, \\r\\n or \\r only: characters such as U+2028 stand unescaped in JSON strings.
"""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

from prefillshare.datafiles.rows import BadRow
from prefillshare.errors import first_line

_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
_UNKNOWN = {b"PK\x03\x04": "a zip archive", b"\x28\xb5\x2f\xfd": "compressed with zstd", b"7z\xbc\xaf": "a 7z archive"}
_BOM = "\ufeff"
# The marks of UTF-32 come first: that of UTF-16 is the beginning of one of them.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Which of the first four bytes of two or one ASCII characters are zero.
_ZEROS = {"x000": "utf-32-le", "000x": "utf-32-be", "x0x0": "utf-16-le", "0x0x": "utf-16-be"}
_BROKEN = (EOFError, OSError, zlib.error, lzma.LZMAError, UnicodeError)


def read_lines(file: Path) -> Iterator[str | BadRow]:
    """The lines, without their ends.

    Raises: OSError when the file cannot be opened, or is packed in a way that is not known.
    """
    with closing(_open_unpacked(file)) as stream:
        try:
            yield from _decode_lines(stream)
        except _BROKEN as error:
            where = "before here, where its checksum is wrong" if "CRC check" in str(error) else "from here on"
            yield BadRow(reason=f"the file is cut or damaged {where} ({first_line(error)})", is_end=True)


def find_unknown_packing(file: Path) -> str | None:
    """How a file is packed, if in a way that is not unpacked here.

    Raises: OSError when it cannot be opened.
    """
    head = _read_head(file)
    return next((what for mark, what in _UNKNOWN.items() if head.startswith(mark)), None)


def _read_head(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(8)


def _open_unpacked(file: Path) -> io.BufferedReader:
    if what := find_unknown_packing(file):
        raise OSError(f"it is {what}: unpack it")
    head = _read_head(file)
    opener = next((opener for mark, opener in _OPENERS.items() if head.startswith(mark)), open)
    return cast(io.BufferedReader, opener(file, "rb"))


def _decode_lines(stream: io.BufferedReader) -> Iterator[str | BadRow]:
    encoding = _guess_encoding(stream.peek(4)[:4])
    if encoding is not None:
        # Half a surrogate pair must not end the reading: its row is refused later.
        with io.TextIOWrapper(cast(IO[bytes], stream), encoding=encoding, errors="surrogatepass") as text:
            yield from (line.rstrip("\n").lstrip(_BOM) for line in text)
        return
    for chunk in stream:
        for line in chunk.removesuffix(b"\n").removesuffix(b"\r").split(b"\r"):
            yield _decode_line(line)


def _guess_encoding(head: bytes) -> str | None:
    """The encoding that the first bytes show; None for UTF-8."""
    by_mark = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    return by_mark or _ZEROS.get("".join("x" if byte else "0" for byte in head))


def _decode_line(line: bytes) -> str | BadRow:
    try:
        return line.decode().lstrip(_BOM)
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        return BadRow(reason=f"the line is not UTF-8 (byte 0x{wrong:02x} at {error.start + 1}): save the file as UTF-8")
