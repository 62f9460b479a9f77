"""SplitZip on a GPU: the same bytes as `splitzip.py` makes, from and to tensors of the device. Imported only by whoever
has torch and Triton.

Two passes to encode: the first writes codes, signs and mantissas and counts the escapes of each block; a running sum of
the counts says where each block's escapes go, so that they lie in order and the bytes are those of the CPU. One pass
and a scatter to decode.
"""
# mypy: disable-error-code="no-untyped-def"
# Triton reads annotations of a kernel's parameters in its own way.

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from prefillshare.errors import StoreError
from prefillshare.store.codec.kernels import WINDOW
from prefillshare.store.codec.splitzip import ESCAPE_BYTES, HEADER, MARK, VERSION

_BLOCK = 1024
"""Pairs of values for each program."""
_WINDOW = tl.constexpr(WINDOW)


@triton.jit
def _has_code(exponent, low):
    return (exponent == 0) | (((exponent - low) & 255) < _WINDOW)


@triton.jit
def _split_kernel(words, codes, rest, counts, low, num_words, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_words
    word = tl.load(words + at, mask=inside, other=0)
    first, second = (word >> 7) & 255, (word >> 23) & 255
    code = tl.where(first == 0, _WINDOW, (first - low) & 15)
    other = tl.where(second == 0, _WINDOW, (second - low) & 15)
    tl.store(codes + at, (code | (other << 4)).to(tl.uint8), mask=inside)
    even, odd = ((word >> 8) & 0x80) | (word & 0x7F), ((word >> 24) & 0x80) | ((word >> 16) & 0x7F)
    tl.store(rest + 2 * at, even.to(tl.uint8), mask=inside)
    tl.store(rest + 2 * at + 1, odd.to(tl.uint8), mask=inside)
    escapes = (1 - _has_code(first, low).to(tl.int32)) + (1 - _has_code(second, low).to(tl.int32))
    tl.store(counts + tl.program_id(0), tl.sum(tl.where(inside, escapes, 0), axis=0))


@triton.jit
def _escape_kernel(words, counts, ends, positions, exponents, low, num_values, room, BLOCK: tl.constexpr):
    count = tl.load(counts + tl.program_id(0))
    if count > 0:
        at = tl.program_id(0) * 2 * BLOCK + tl.arange(0, 2 * BLOCK)
        inside = at < num_values
        word = tl.load(words + (at >> 1), mask=inside, other=0)
        exponent = (word >> (7 + 16 * (at & 1))) & 255
        is_escape = inside & (_has_code(exponent, low) == 0)
        ranks = tl.cumsum(is_escape.to(tl.int32), axis=0)
        place = tl.load(ends + tl.program_id(0)) - count + ranks - 1
        writes = is_escape & (place < room)
        tl.store(positions + place, at, mask=writes)
        tl.store(exponents + place, exponent.to(tl.uint8), mask=writes)


@triton.jit
def _join_kernel(codes, rest, words, low, num_words, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_words
    code = tl.load(codes + at, mask=inside, other=0).to(tl.int32)
    even = tl.load(rest + 2 * at, mask=inside, other=0).to(tl.int32)
    odd = tl.load(rest + 2 * at + 1, mask=inside, other=0).to(tl.int32)
    first, second = code & 15, code >> 4
    first = tl.where(first == _WINDOW, 0, (first + low) & 255)
    second = tl.where(second == _WINDOW, 0, (second + low) & 255)
    low_half = ((even & 0x80) << 8) | (first << 7) | (even & 0x7F)
    high_half = ((odd & 0x80) << 8) | (second << 7) | (odd & 0x7F)
    tl.store(words + at, low_half | (high_half << 16), mask=inside)


def encode_tensor(page: Tensor, low: int, most_bytes: int) -> Tensor | None:
    """The encoded page, or None when it has too many escapes.

    Shapes: `page` is contiguous uint8 of a multiple of 16 bytes. Effects: waits for the device once, for the number of
    escapes.
    """
    words = page.view(torch.int32)
    num_words = words.numel()
    stored = torch.empty(most_bytes, dtype=torch.uint8, device=page.device)
    start = HEADER.itemsize + 3 * num_words
    grid = (triton.cdiv(num_words, _BLOCK),)
    counts = torch.empty(grid, dtype=torch.int32, device=page.device)
    codes, rest = _parts(stored, num_words)
    _split_kernel[grid](words, codes, rest, counts, low, num_words, BLOCK=_BLOCK)
    ends = torch.cumsum(counts, 0, dtype=torch.int32)
    count = int(ends[-1])
    if ESCAPE_BYTES * count > most_bytes - start:
        return None
    if count:
        positions = torch.empty(count, dtype=torch.int32, device=page.device)
        exponents = torch.empty(count, dtype=torch.uint8, device=page.device)
        _escape_kernel[grid](words, counts, ends, positions, exponents, low, 2 * num_words, count, BLOCK=_BLOCK)
        stored[start : start + 4 * count] = positions.view(torch.uint8)
        stored[start + 4 * count : start + ESCAPE_BYTES * count] = exponents
    stored[: HEADER.itemsize] = _header(low, count, 2 * num_words).to(page.device)
    return stored[: start + ESCAPE_BYTES * count]


def decode_tensor(stored: Tensor, into: Tensor) -> None:
    """Fill `into`, contiguous uint8 of a page's size, with the page.

    Effects: waits for the device once, for the header. Raises: StoreError when `stored` is no page of that size.
    """
    words = into.view(torch.int32)
    num_words = words.numel()
    header = _read_header(stored)
    count, start = int(header["num_escapes"]), HEADER.itemsize + 3 * num_words
    is_fitting = header["mark"] == MARK and header["version"] == VERSION and header["num_values"] == 2 * num_words
    if not is_fitting or stored.numel() != start + ESCAPE_BYTES * count:
        raise StoreError(f"{stored.numel()} bytes are no encoded page of {into.numel()} with {count} escapes")
    codes, rest = _parts(stored, num_words)
    grid = (triton.cdiv(num_words, _BLOCK),)
    _join_kernel[grid](codes, rest, words, int(header["low"]), num_words, BLOCK=_BLOCK)
    if count:
        _put_escapes(stored[start : start + 4 * count], stored[start + 4 * count :], into)


def _put_escapes(positions: Tensor, exponents: Tensor, into: Tensor) -> None:
    # A page that was damaged may name places that are not there: the digest finds it, and nothing is written elsewhere.
    places = positions.clone().view(torch.int32).long().clamp_(0, into.numel() // 2 - 1)
    values = into.view(torch.int16)
    kept = values[places] & -0x7F81  # all bits but the exponent's
    values[places] = kept | (exponents.to(torch.int16) << 7)


def _parts(stored: Tensor, num_words: int) -> tuple[Tensor, Tensor]:
    middle = HEADER.itemsize + num_words
    return stored[HEADER.itemsize : middle], stored[middle : middle + 2 * num_words]


def _header(low: int, count: int, num_values: int) -> Tensor:
    packed = np.array([(MARK, VERSION, low, 0, count, num_values)], dtype=HEADER)
    return torch.from_numpy(packed.view(np.uint8))


def _read_header(stored: Tensor) -> np.void:
    return stored[: HEADER.itemsize].cpu().numpy().view(HEADER)[0]
