"""Norms, rotations and adapters as single loops, compiled by numba.

A decode step of a small model is mostly the cost of calling PyTorch's operators; each of these is one call instead of
two to ten. One thread: where PyTorch has more, its own operators divide the work.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.vectors import VECTOR, WIDTH, add_within, find, load, multiply_add, open_arrays, store

_F4 = np.float32
_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums in any order; NaN stays NaN."""

_Values = types.Array(types.float32, 1, "C")
_Rows = types.Array(types.float32, 2, "C")
_Blocks = types.Array(types.float32, 3, "C")
_Numbers = types.Array(types.int64, 1, "C")


@compile_ahead(types.void(_Rows, _Values, types.float32, _Rows), fastmath=_MATH, error_model="numpy")
def normalize(x: Any, weight: Any, epsilon: Any, output: Any) -> None:
    """x / sqrt(mean(x^2) + epsilon) * weight of each row.

    Shapes: x and output (rows, size), weight (size,).
    """
    size = x.shape[1]
    for row in range(x.shape[0]):
        total = _F4(0)
        for d in range(size):
            total += x[row, d] * x[row, d]
        factor = _F4(1) / np.sqrt(total / _F4(size) + epsilon)
        for d in range(size):
            output[row, d] = x[row, d] * factor * weight[d]


@compile_ahead(types.void(_Blocks, _Numbers, _Rows, _Blocks), fastmath=_MATH, error_model="numpy")
def rotate(x: Any, positions: Any, table: Any, output: Any) -> None:
    """Turn pairs (i, i + size / 2) of each head by the position's angles.

    Shapes: x and output (tokens, heads, size), positions (tokens,), table (all positions, size): cosines, then sines.
    """
    half = x.shape[2] // 2
    for t in range(x.shape[0]):
        angles = table[positions[t]]
        for head in range(x.shape[1]):
            for i in range(half):
                first, second, cos, sin = x[t, head, i], x[t, head, half + i], angles[i], angles[half + i]
                output[t, head, i] = first * cos - second * sin
                output[t, head, half + i] = second * cos + first * sin


@compile_ahead(
    types.void(_Rows, _Blocks, types.int64, _Numbers, types.int64, types.float32, _Rows),
    fastmath=_MATH,
    error_model="numpy",
)
def shrink(x: Any, weights: Any, slot: Any, rows: Any, width: Any, scaling: Any, output: Any) -> None:
    """Write the products of some rows with an adapter's A.

    Shapes: x (tokens, in), weights (slots, widest, in), rows (any,), output (tokens, widest), of which each of the rows
    gets its first `width` columns.
    """
    for j in range(width):
        line = weights[slot, j]
        for row in rows:
            given, total = x[row], _F4(0)
            for d in range(line.size):
                total += line[d] * given[d]
            output[row, j] = total * scaling


@intrinsic
def _add_columns(_: Any, lines: Any, column: Any, x: Any, row: Any, begin: Any, rank: Any, output: Any) -> Any:
    """Add a row's products with so many columns as a vector has: each column's stand side by side and have to meet."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        weights, rows, totals = open_arrays(context, builder, signature, given, (0, 2, 6))
        _, column, _, row, begin, rank, _ = given
        index = column.type
        products = [cgutils.alloca_once_value(builder, ir.Constant(VECTOR, None)) for _ in range(WIDTH)]
        with cgutils.for_range_slice(builder, index(0), rank, index(WIDTH)) as (first, _):
            factors = load(builder, find(builder, rows, row, builder.add(begin, first)))
            for number, product in enumerate(products):
                line = load(builder, find(builder, weights, builder.add(column, index(number)), first))
                builder.store(multiply_add(builder, line, factors, builder.load(product)), product)
        at = find(builder, totals, row, column)
        store(builder, builder.fadd(load(builder, at), add_within(builder, list(map(builder.load, products)))), at)
        return context.get_dummy_value()

    return types.void(lines, column, x, row, begin, rank, output), generate


@compile_ahead(
    types.void(_Rows, _Blocks, types.int64, _Numbers, types.int64, _Numbers, _Rows),
    fastmath=_MATH,
    error_model="numpy",
)
def expand(x: Any, weights: Any, slot: Any, rows: Any, rank: Any, offsets: Any, output: Any) -> None:
    """Add the products of some rows with an adapter's B.

    Shapes: x (tokens, at least slices * rank), weights (slots, out, max rank), rows (any,), offsets (slices + 1,):
    where each slice's columns of the output begin and end; output (tokens, out).
    """
    lines = weights[slot]
    for part in range(offsets.size - 1):
        begin, end = offsets[part], offsets[part + 1]
        num_together = end - begin - (end - begin) % WIDTH if rank % WIDTH == 0 else 0
        for column in range(begin, begin + num_together, WIDTH):
            for row in rows:
                _add_columns(lines, column, x, row, part * rank, rank, output)
        for column in range(begin + num_together, end):
            line = lines[column]
            for row in rows:
                total = _F4(0)
                for j in range(rank):
                    total += line[j] * x[row, part * rank + j]
                output[row, column] += total
