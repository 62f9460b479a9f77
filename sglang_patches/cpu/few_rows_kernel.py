"""A product of up to eight rows with weights that lie input by input, compiled by numba.

A decode step of a few calls waits for memory: each weight is read once, and used once per row. oneDNN reads weights in
blocks as soon as there are two rows, at half the speed that memory has. Here they are read in the order in which they
lie, some lines side by side, which the processor fetches ahead; sums of all rows stay in registers meanwhile:

    weights   line k    | output 0, 1, 2 ... ->     a line belongs to one input; what was loaded of it
              ...                                   is used by all rows at once
              line k+3  | output 0, 1, 2 ... ->

How far the processor looks ahead is a number of instructions, so each one that is not a load of weights costs speed of
memory. Hence the vectors by hand: numba's own begin every few lines with tests of whether arrays overlap, and with
scalars that do not fit into registers. One thread.
"""

from __future__ import annotations

from typing import Any

from numba import types
from numba.extending import intrinsic
from torch import Tensor
from torch.nn.functional import pad

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.vectors import WIDTH, find, load, multiply_add, spread, store

_BLOCKS = {1: (4, 2), 2: (4, 2), 4: (16, 1), 8: (32, 1)}
"""Lines side by side, and vectors of each in a round of the loop, by rows, as they were found to be fastest: more rows
have more sums to load and store, which more lines share, but more lines are more streams to fetch ahead; and the
compiler does not unroll a loop of few instructions by itself."""
MOST_ROWS = max(_BLOCKS)
"""With more rows arithmetic takes longer than memory does, and oneDNN is as fast."""
_MATH = {"contract", "nsz"}
"""Products are added in the order of the inputs, so a row's sums are the same to the bit whoever is beside it."""

_Rows = types.Array(types.float32, 2, "C")
_SIGNATURE = types.void(_Rows, _Rows, _Rows)


def add_products(x: Tensor, weights: Tensor, sums: Tensor) -> None:
    """Add x weights to the sums.

    Shapes: x (up to `MOST_ROWS` rows, inputs), weights (inputs, outputs), sums (rows, outputs), contiguous float32.
    """
    num_rows = next(number for number in _BLOCKS if number >= len(x))
    # Rows of nobody cost less than a compiled loop for each number of rows would.
    if num_rows == len(x):
        _adders[num_rows](x.numpy(), weights.numpy(), sums.numpy())
        return
    whole, whole_sums = (pad(given, (0, 0, 0, num_rows - len(x))) for given in (x, sums))
    _adders[num_rows](whole.numpy(), weights.numpy(), whole_sums.numpy())
    sums.copy_(whole_sums[: len(sums)])


@intrinsic(prefer_literal=True)
def _add_lines(
    _: Any, x: Any, weights: Any, sums: Any, first_input: Any, first_output: Any, num_rows: Any, num_lines: Any
) -> Any:
    """Add the products of the next lines' inputs to one vector of sums of each row."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pairs = zip(signature.args[:3], given[:3], strict=True)
        factors, lines, totals = (context.make_array(kind)(context, builder, value) for kind, value in pairs)
        first, output, index = given[3], given[4], given[3].type
        rows = [index(row) for row in range(num_rows.literal_value)]
        # Each row's factors are at constant distances from its first: so they need one register per row, not per line.
        first_factors = [find(builder, factors, row, first) for row in rows]
        places = [find(builder, totals, row, output) for row in rows]
        held = [load(builder, place) for place in places]
        for number in range(num_lines.literal_value):
            at = builder.add(first, index(number))
            line = load(builder, find(builder, lines, at, output))
            for row, first_factor in enumerate(first_factors):
                factor = spread(builder, builder.load(builder.gep(first_factor, [index(number)])))
                held[row] = multiply_add(builder, factor, line, held[row])
        for total, place in zip(held, places, strict=True):
            store(builder, total, place)
        return context.get_dummy_value()

    return types.void(x, weights, sums, first_input, first_output, num_rows, num_lines), generate


def _make_adder(num_rows: int, num_lines: int, num_vectors: int) -> Any:
    """The loops for so many rows; their numbers are constants of the compiled code."""
    num_floats = num_vectors * WIDTH

    @compile_ahead(_SIGNATURE, fastmath=_MATH, error_model="numpy")
    def add(x: Any, weights: Any, sums: Any) -> None:
        num_inputs, num_outputs = weights.shape
        num_in_blocks, num_in_vectors = num_inputs - num_inputs % num_lines, num_outputs - num_outputs % num_floats
        for k in range(0, num_in_blocks, num_lines):
            for n in range(0, num_in_vectors, num_floats):
                _add_lines(x, weights, sums, k, n, num_rows, num_lines)
                if num_floats > WIDTH:
                    _add_lines(x, weights, sums, k, n + WIDTH, num_rows, num_lines)
        for k in range(num_in_blocks, num_inputs):
            for n in range(0, num_in_vectors, WIDTH):
                _add_lines(x, weights, sums, k, n, num_rows, 1)
        for n in range(num_in_vectors, num_outputs):
            for row in range(num_rows):
                for k in range(num_inputs):
                    sums[row, n] += x[row, k] * weights[k, n]

    return add


_adders = {num_rows: _make_adder(num_rows, *block) for num_rows, block in _BLOCKS.items()}
