"""A product of some rows with weights that lie input by input, compiled by numba.

A decode step of a few calls waits for memory; one of many, or a short prompt, for arithmetic. oneDNN does neither well:
from two rows on it lays the weights anew, which costs more than to read them. Here they are read once, in the order in
which they lie. Of some lines, rows take turns in groups, whose sums stay in registers meanwhile:

    weights   line k    | output 0, 1, 2 ... ->     a line belongs to one input; what was loaded of it
              ...                                   is used by all rows of a group at once
              line k+31 | output 0, 1, 2 ... ->

The processor looks ahead in a few lines by itself, not in so many, so the groups fetch what follows while they compute:
arithmetic of up to a dozen rows passes while memory is waited for. Hence the vectors by hand: numba's own
begin every few lines with tests of whether arrays overlap, and with scalars that do not fit into registers. One thread.
"""

from __future__ import annotations

import itertools
from typing import Any

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.prefetching import LINE, emit_prefetch
from sglang_patches.cpu.vectors import WIDTH, find, load, multiply_add, open_arrays, split, spread, store

_GROUPS = (1, 2, 4, 8, 9, 10, 11, 12) if WIDTH == 16 else (1, 2, 4, 6)
"""Rows of a group, each number compiled by itself. The largest fills the registers: two vectors of sums for each row,
two of weights, and one factor."""
_FLOATS = 2 * WIDTH
"""Outputs of a row whose sums are in registers at a time."""
_LINES = 32
"""Lines whose products are added while sums stay in registers: more are more streams of memory, fewer more sums loaded
and stored."""
_HALF = _LINES // 2
_TILE = 128
"""Outputs after which the next group's turn comes: as many lines of them as stay in the nearest cache."""
_AHEAD = 32
"""Floats of a line between those that are read and those that are fetched."""
MOST_ROWS = 48
"""With more rows oneDNN is as fast: what it has laid anew is used often enough."""
_MATH = {"contract", "nsz"}
"""Products are added in the order of the inputs, so a row's sums are the same to the bit whoever is beside it."""

_Rows = types.Array(types.float32, 2, "C")
_SIGNATURE = types.void(_Rows, _Rows, _Rows)


def add_products(x: Tensor, weights: Tensor, sums: Tensor) -> None:
    """Add x weights to the sums.

    Shapes: x (up to `MOST_ROWS` rows, inputs), weights (inputs, outputs), sums (rows, outputs), contiguous float32.
    """
    if not len(x):
        return
    num_groups = -(-len(x) // _GROUPS[-1])
    size = next(size for size in _GROUPS if size * num_groups >= len(x))
    _adders[size](x.numpy(), weights.numpy(), sums.numpy())


@intrinsic(prefer_literal=True)
def _add_lines(
    _: Any, x: Any, weights: Any, sums: Any, at: Any, ahead: Any, num_rows: Any, num_lines: Any, num_fetched: Any
) -> Any:
    """Add the products of the next inputs to the next `_FLOATS` sums of each row of a group, and fetch what comes next.

    `at`: the group's first row, first input and first output; `ahead`: first input and output of what is fetched.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        factors, lines, totals = open_arrays(context, builder, signature, given, (0, 1, 2))
        first_row, first, output = cgutils.unpack_tuple(builder, given[3])
        next_input, next_output = cgutils.unpack_tuple(builder, given[4])
        index = first.type
        # Where a group has more rows than there are, its last ones are all the last row, and write the same sums.
        last_row = builder.sub(builder.extract_value(factors.shape, 0), index(1))
        rows = [builder.add(first_row, index(number)) for number in range(num_rows.literal_value)]
        rows = [builder.select(builder.icmp_signed("<", row, last_row), row, last_row) for row in rows]
        # Each row's factors are at constant distances from its first: so they need one register per row, not per line.
        first_factors = [find(builder, factors, row, first) for row in rows]
        places = [split(builder, find(builder, totals, row, output), _FLOATS) for row in rows]
        held = [[load(builder, place) for place in of_row] for of_row in places]
        for number in range(num_lines.literal_value):
            if number < num_fetched.literal_value:
                fetched = find(builder, lines, builder.add(next_input, index(number)), next_output)
                for distance in range(0, _FLOATS, LINE):
                    emit_prefetch(builder, builder.gep(fetched, [index(distance)]))
            line = split(builder, find(builder, lines, builder.add(first, index(number)), output), _FLOATS)
            weights_of_line = [load(builder, place) for place in line]
            for of_row, first_factor in zip(held, first_factors, strict=True):
                factor = spread(builder, builder.load(builder.gep(first_factor, [index(number)])))
                of_row[:] = [multiply_add(builder, factor, *pair) for pair in zip(weights_of_line, of_row, strict=True)]
        for total, place in zip(itertools.chain(*held), itertools.chain(*places), strict=True):
            store(builder, total, place)
        return context.get_dummy_value()

    return types.void(x, weights, sums, at, ahead, num_rows, num_lines, num_fetched), generate


def _make_adder(num_rows: int) -> Any:
    """The loops for groups of so many rows; their numbers are constants of the compiled code."""

    @compile_ahead(_SIGNATURE, fastmath=_MATH, error_model="numpy")
    def add(x: Any, weights: Any, sums: Any) -> None:
        num_inputs, num_outputs = weights.shape
        num_in_blocks, num_in_vectors = num_inputs - num_inputs % _LINES, num_outputs - num_outputs % _FLOATS
        for k in range(0, num_in_blocks, _LINES):
            if x.shape[0] <= num_rows:
                for n in range(0, num_in_vectors, _FLOATS):
                    is_last = n + _AHEAD >= num_in_vectors
                    ahead = (k + _LINES, n + _AHEAD - num_in_vectors) if is_last else (k, n + _AHEAD)
                    _add_lines(x, weights, sums, (0, k, n), ahead, num_rows, _LINES, _LINES)
            else:
                for tile in range(0, num_in_vectors, _TILE):
                    is_last = tile + _TILE >= num_in_vectors
                    for row in range(0, x.shape[0], num_rows):
                        # The first group fetches the first half of the lines, the others the second one.
                        half = (_HALF if row else 0) + (k + _LINES if is_last else k)
                        for n in range(tile, min(tile + _TILE, num_in_vectors), _FLOATS):
                            ahead = (half, n - tile if is_last else n + _TILE)
                            _add_lines(x, weights, sums, (row, k, n), ahead, num_rows, _LINES, _HALF)
        for k in range(num_in_blocks, num_inputs):
            for row in range(0, x.shape[0], num_rows):
                for n in range(0, num_in_vectors, _FLOATS):
                    _add_lines(x, weights, sums, (row, k, n), (k, n), num_rows, 1, 0)
        for n in range(num_in_vectors, num_outputs):
            for row in range(x.shape[0]):
                for k in range(num_inputs):
                    sums[row, n] += x[row, k] * weights[k, n]

    return add


_adders = {num_rows: _make_adder(num_rows) for num_rows in _GROUPS}
