"""SplitZip: bfloat16 pages in three quarters of their bytes, without loss.

Of a value's 16 bits the exponent's 8 are the predictable ones. Each becomes a code of 4 bits; sign and mantissa stay.
Codes are for the 15 exponents in a row that are commonest in the first pages, and for exponent 0; what has another
exponent is an escape. On KV of the tiny family that covers as much as the 16 commonest exponents do, and needs no
table.

    0   "Z", version, lowest exponent with a code, 0; number of escapes (u4), number of values (u8)
    16  codes: one byte for each two values, the first in the low half
    ..  sign and mantissa: one byte for each value
    ..  escapes: positions (u4 each), then exponents (u1 each)

A page says itself how it was encoded, so nobody has to agree on a table, and no table can be the wrong one.
"""

from typing import ClassVar

import numpy as np

from prefillshare.store.base import Bytes
from prefillshare.store.codec.base import Codec
from prefillshare.store.codec.kernels import WINDOW, join, split

HEADER = np.dtype(
    [("mark", "u1"), ("version", "u1"), ("low", "u1"), ("zero", "u1"), ("num_escapes", "<u4"), ("num_values", "<u8")]
)
MARK, VERSION = ord("Z"), 1
ESCAPE_BYTES = 5
PAGE_ALIGNMENT = 16
"""What a page's size must be a multiple of, so that all parts lie at addresses that fit their type."""
_ESCAPES_SHARE = 128
"""One part in so many of a page is room for escapes: 3 in 1,000 values; real KV has 1 or 2 in 10,000."""
_SAMPLE = 1 << 16


class SplitZip(Codec):
    """The codec of one process: it learns the exponents from the first page, and again from one that did not fit."""

    number: ClassVar[int] = 1

    def __init__(self) -> None:
        self._low: int | None = None

    def most_bytes(self, page_bytes: int) -> int:
        return HEADER.itemsize + page_bytes // 4 * 3 + page_bytes // _ESCAPES_SHARE

    def encode(self, page: Bytes) -> Bytes | None:
        words = np.require(page, requirements=["C", "A"]).view("<u4")
        known = self._low
        low = best_low(words) if known is None else known
        stored = encode_words(words, low, self.most_bytes(len(page)))
        if stored is None and known is not None and (better := best_low(words)) != known:
            low = better
            stored = encode_words(words, low, self.most_bytes(len(page)))
        if stored is not None:
            self._low = low
        return stored

    def decode(self, stored: Bytes, into: Bytes) -> None:
        decode_words(stored, into)


def best_low(words: np.ndarray) -> int:
    """The lowest of the 15 exponents in a row that most values have; zeros have a code of their own."""
    values = words[: _SAMPLE // 2].view("<u2")
    counts = np.bincount((values >> 7) & 255, minlength=256)
    counts[0] = 0
    sums = np.convolve(counts, np.ones(WINDOW, dtype=np.int64), mode="valid")
    return max(1, int(sums.argmax()))


def encode_words(words: np.ndarray, low: int, most_bytes: int) -> Bytes | None:
    """The encoded page, or None when it has too many escapes."""
    num_words = words.size
    most_escapes = (most_bytes - HEADER.itemsize - 3 * num_words) // ESCAPE_BYTES
    stored = np.empty(most_bytes, dtype=np.uint8)
    positions, exponents = np.empty(most_escapes, dtype="<u4"), np.empty(most_escapes, dtype=np.uint8)
    codes, rest = _parts(stored, num_words)
    count = split(words, np.uint32(low), codes, rest, positions, exponents)
    if count < 0:
        return None
    stored[: HEADER.itemsize].view(HEADER)[0] = (MARK, VERSION, low, 0, count, 2 * num_words)
    start = HEADER.itemsize + 3 * num_words
    stored[start : start + 4 * count] = positions[:count].view(np.uint8)
    stored[start + 4 * count : start + ESCAPE_BYTES * count] = exponents[:count]
    return stored[: start + ESCAPE_BYTES * count]


def decode_words(stored: Bytes, into: Bytes) -> None:
    """Fill `into` with the page.

    Raises: ValueError when `stored` is no page of that size.
    """
    if len(stored) < HEADER.itemsize or len(into) % PAGE_ALIGNMENT:
        raise ValueError(f"{len(stored)} bytes are no encoded page of {len(into)}")
    header = stored[: HEADER.itemsize].view(HEADER)[0]
    num_words, count = len(into) // 4, int(header["num_escapes"])
    start = HEADER.itemsize + 3 * num_words
    is_fitting = header["mark"] == MARK and header["version"] == VERSION and header["num_values"] == 2 * num_words
    if not is_fitting or len(stored) != start + ESCAPE_BYTES * count:
        raise ValueError(f"{len(stored)} bytes are no encoded page of {len(into)} with {count} escapes")
    codes, rest = _parts(stored, num_words)
    positions = stored[start : start + 4 * count].view("<u4")
    words = into.view("<u4") if into.ctypes.data % 4 == 0 else np.empty(num_words, dtype="<u4")
    if join(codes, rest, np.uint32(header["low"]), positions, stored[start + 4 * count :], words) < 0:
        raise ValueError("an escape lies outside of the page")
    if words.base is None:
        into[:] = words.view(np.uint8)


def _parts(stored: Bytes, num_words: int) -> tuple[Bytes, np.ndarray]:
    """Codes, and signs with mantissas of two values each."""
    start = HEADER.itemsize
    middle = start + num_words
    return stored[start:middle], stored[middle : middle + 2 * num_words].view("<u2")
