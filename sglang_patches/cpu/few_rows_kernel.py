"""A product of one or two rows with weights that lie input by input, compiled by numba.

A decode step of one call waits for memory: each weight is read once and used once, or twice where the call has a second
row (:mod:`sglang_patches.icarus.rows`). oneDNN reads weights in blocks as soon as there are two rows, more slowly than
memory would give them. Here they are read in the order in which they lie, a few lines side by side, which the processor
fetches ahead; a sum is loaded and stored once for the products of all of these lines:

    weights   line k    | output 0, 1, 2 ... ->     a line belongs to one input;
              ...                                   both rows use it while it is in a register
              line k+7  | output 0, 1, 2 ... ->

One thread.
"""

from __future__ import annotations

from typing import Any

from numba import njit, types

from prefillshare.compiled import compile_ahead

MOST_ROWS = 2
"""With more rows arithmetic takes longer than memory does, and oneDNN is as fast."""
_MATH = {"contract", "nsz"}
"""Products are added in the order of the inputs, so a row's sums are the same to the bit whoever is beside it."""

_Rows = types.Array(types.float32, 2, "C")


@njit(fastmath=_MATH, error_model="numpy", inline="always")
def _add_line(factor: Any, line: Any, sums: Any) -> None:
    for n in range(sums.size):
        sums[n] += factor * line[n]


@njit(fastmath=_MATH, error_model="numpy", inline="always")
def _add_four(x: Any, lines: Any, sums: Any) -> None:
    a, b, c, d = lines[0], lines[1], lines[2], lines[3]
    p, q, r, s = x[0], x[1], x[2], x[3]
    for n in range(sums.size):
        sums[n] = sums[n] + p * a[n] + q * b[n] + r * c[n] + s * d[n]


@njit(fastmath=_MATH, error_model="numpy", inline="always")
def _add_eight(x: Any, y: Any, lines: Any, first: Any, second: Any) -> None:
    a, b, c, d, e, f, g, h = lines[0], lines[1], lines[2], lines[3], lines[4], lines[5], lines[6], lines[7]
    x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
    y0, y1, y2, y3, y4, y5, y6, y7 = y[0], y[1], y[2], y[3], y[4], y[5], y[6], y[7]
    for n in range(first.size):
        i, j, k, m, o, p, q, r = a[n], b[n], c[n], d[n], e[n], f[n], g[n], h[n]
        first[n] = first[n] + x0 * i + x1 * j + x2 * k + x3 * m + x4 * o + x5 * p + x6 * q + x7 * r
        second[n] = second[n] + y0 * i + y1 * j + y2 * k + y3 * m + y4 * o + y5 * p + y6 * q + y7 * r


@compile_ahead(types.void(_Rows, _Rows, _Rows), fastmath=_MATH, error_model="numpy")
def add_products(x: Any, weights: Any, sums: Any) -> None:
    """Add x weights to the sums.

    Shapes: x (one or two rows, inputs), weights (inputs, outputs), sums (rows, outputs).
    """
    num_inputs = weights.shape[0]
    if x.shape[0] == 1:
        num_done = num_inputs - num_inputs % 4
        for k in range(0, num_done, 4):
            _add_four(x[0, k : k + 4], weights[k : k + 4], sums[0])
    else:
        num_done = num_inputs - num_inputs % 8
        for k in range(0, num_done, 8):
            _add_eight(x[0, k : k + 8], x[1, k : k + 8], weights[k : k + 8], sums[0], sums[1])
    for k in range(num_done, num_inputs):
        for row in range(x.shape[0]):
            _add_line(x[row, k], weights[k], sums[row])
