"""Products with codebook weights on any processor: a Psumbook of float32, read code by code.

Term by term, the products of one term are 1 KiB and stay in the nearest cache, while codes and sums of a block are read
in the order in which they lie. One thread.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types

from prefillshare.codebook.kernels.layout import BLOCK_OUTPUTS, ENTRIES
from prefillshare.compiled import compile_ahead

_MATH = {"contract", "nsz"}
_Floats2, _Floats3 = (types.Array(types.float32, n, "C") for n in (2, 3))
_Bytes4 = types.Array(types.uint8, 4, "C")


@njit(fastmath=_MATH, error_model="numpy", inline="always")
def _fill_products(inputs: Any, codebook: Any, products: Any) -> None:
    products[:] = 0
    for i in range(codebook.shape[0]):
        for entry in range(ENTRIES):
            products[entry] += inputs[i] * codebook[i, entry]


@njit(fastmath=_MATH, error_model="numpy")
def _add_found(codes: Any, products: Any, found: Any) -> None:
    for output in range(BLOCK_OUTPUTS):
        found[output] += products[codes[output]]


@njit(fastmath=_MATH, error_model="numpy")
def _add_four_found(codes: Any, products: Any, found: Any) -> None:
    # A sum is read and written once for four terms: what bounds this loop is how often it touches memory.
    a, b, c, d = products[0], products[1], products[2], products[3]
    for output in range(BLOCK_OUTPUTS):
        first, second = a[codes[0, output]] + b[codes[1, output]], c[codes[2, output]] + d[codes[3, output]]
        found[output] += first + second


@njit(fastmath=_MATH, error_model="numpy")
def _add_all_found(codes: Any, products: Any, found: Any) -> None:
    num_terms, term = codes.shape[0], 0
    while term + 4 <= num_terms:
        _add_four_found(codes[term : term + 4], products[term : term + 4], found)
        term += 4
    for rest in range(term, num_terms):
        _add_found(codes[rest], products[rest], found)


@compile_ahead(types.void(_Floats2, _Bytes4, _Floats3, _Floats2, _Floats2), error_model="numpy")
def multiply(rows: Any, codes: Any, codebooks: Any, scales: Any, sums: Any) -> None:
    """Add the products to the sums.

    Shapes: rows (N, in), codes (groups, blocks, terms, 256), codebooks (m, v, 256), scales (groups, blocks * 256), sums
    (N, blocks * 256).
    """
    num_codes, length = codebooks.shape[0], codebooks.shape[1]
    num_groups, num_blocks, num_terms, _ = codes.shape
    products = np.empty((num_terms, ENTRIES), np.float32)
    found = np.empty(BLOCK_OUTPUTS, np.float32)
    for group in range(num_groups):
        first = group * (num_terms // num_codes * length)
        for row in range(rows.shape[0]):
            for term in range(num_terms):
                start = first + term // num_codes * length
                _fill_products(rows[row, start : start + length], codebooks[term % num_codes], products[term])
            for block in range(num_blocks):
                found[:] = 0
                _add_all_found(codes[group, block], products, found)
                for output in range(BLOCK_OUTPUTS):
                    place = block * BLOCK_OUTPUTS + output
                    sums[row, place] += found[output] * scales[group, place]
