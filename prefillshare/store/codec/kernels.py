"""SplitZip's loops on a CPU, compiled by numba; they run outside of the GIL.

Both work on pairs of values, with nothing but arithmetic in the inner loop, so that the compiler makes vectors of it: a
table of codes, looked up value by value, took five times as long. Lines of the page are `words` of two bfloat16 values,
`value = sign << 15 | exponent << 7 | mantissa`.
"""

from typing import Any

import numpy as np
from numba import types

from prefillshare.compiled import compile_ahead

WINDOW = 15
"""Exponents that follow each other and have codes 0 to 14; code 15 is exponent 0: zeros and what lies next to them."""
_ZERO = np.uint32(15)
_BLOCK = 256
"""Words that are looked at again when there is an escape among them."""

_Words = types.Array(types.uint32, 1, "C")
_Codes = types.Array(types.uint8, 1, "C")
_Rest = types.Array(types.uint16, 1, "C")


def _read_only(kind: Any) -> Any:
    return types.Array(kind.dtype, 1, "C", readonly=True)


@compile_ahead(types.uint32(_read_only(_Words), types.uint32, _Codes, _Rest))
def _split_block(words: Any, low: Any, codes: Any, rest: Any) -> Any:
    """Write codes, and signs with mantissas; return 0 when every exponent has a code."""
    escapes = np.uint32(0)
    for at in range(words.size):  # from 0 on: an index that may be negative stops the vectors
        word = words[at]
        first, second = (word >> np.uint32(7)) & np.uint32(255), (word >> np.uint32(23)) & np.uint32(255)
        code, other = (first - low) & np.uint32(255), (second - low) & np.uint32(255)
        # 1 unless the exponent is 0; then from 16 on where the exponent has no code.
        some, some_other = (first + np.uint32(255)) >> np.uint32(8), (second + np.uint32(255)) >> np.uint32(8)
        escapes |= (code + np.uint32(1)) & (np.uint32(0) - some) | (other + np.uint32(1)) & (np.uint32(0) - some_other)
        code = (code | (some - np.uint32(1))) & np.uint32(15)
        other = (other | (some_other - np.uint32(1))) & np.uint32(15)
        codes[at] = np.uint8(code | (other << np.uint32(4)))
        even = ((word >> np.uint32(8)) & np.uint32(0x80)) | (word & np.uint32(0x7F))
        odd = ((word >> np.uint32(16)) & np.uint32(0x8000)) | ((word >> np.uint32(8)) & np.uint32(0x7F00))
        rest[at] = np.uint16(even | odd)
    return (escapes >> np.uint32(4)) & np.uint32(31)


@compile_ahead(types.intp(_read_only(_Words), types.uint32, _Codes, _Rest, _Words, _Codes))
def split(words: Any, low: Any, codes: Any, rest: Any, positions: Any, exponents: Any) -> Any:
    """Write codes, and signs with mantissas; return the number of escapes, or -1 when they are more than fit.

    An escape is a value whose exponent has no code: its position, counted in values, and its exponent.
    """
    count = 0
    for start in range(0, words.size, _BLOCK):
        end = min(start + _BLOCK, words.size)
        if _split_block(words[start:end], low, codes[start:end], rest[start:end]) == 0:
            continue
        for place in range(2 * start, 2 * end):
            exponent = (words[place >> 1] >> np.uint32(7 + 16 * (place & 1))) & np.uint32(255)
            if exponent != 0 and ((exponent - low) & np.uint32(255)) >= WINDOW:
                if count == positions.size:
                    return -1
                positions[count], exponents[count] = place, exponent
                count += 1
    return count


@compile_ahead(
    types.intp(_read_only(_Codes), _read_only(_Rest), types.uint32, _read_only(_Words), _read_only(_Codes), _Words)
)
def join(codes: Any, rest: Any, low: Any, positions: Any, exponents: Any, words: Any) -> Any:
    """Write the values; return -1 when an escape lies outside of the page."""
    for at in range(words.size):
        code, bits = np.uint32(codes[at]), np.uint32(rest[at])
        first, second = code & np.uint32(15), code >> np.uint32(4)
        # 1 unless the code is that of exponent 0.
        some, some_other = ((first ^ _ZERO) + _ZERO) >> np.uint32(4), ((second ^ _ZERO) + _ZERO) >> np.uint32(4)
        first, second = ((first + low) & np.uint32(255)) * some, ((second + low) & np.uint32(255)) * some_other
        even = ((bits & np.uint32(0x80)) << np.uint32(8)) | (first << np.uint32(7)) | (bits & np.uint32(0x7F))
        odd = (bits & np.uint32(0x8000)) | (second << np.uint32(7)) | ((bits >> np.uint32(8)) & np.uint32(0x7F))
        words[at] = np.uint32(even | (odd << np.uint32(16)))
    for number in range(positions.size):
        place = positions[number]
        if place >= 2 * words.size:
            return -1
        shift = np.uint32(7 + 16 * (place & np.uint32(1)))
        word = words[place >> np.uint32(1)] & ~np.uint32(np.uint32(255) << shift)
        words[place >> np.uint32(1)] = np.uint32(word | (np.uint32(exponents[number]) << shift))
    return 0
