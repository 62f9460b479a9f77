"""Vectors of floats in the loops that numba compiles, written by hand.

numba's own begin with tests of whether arrays overlap, and keep in memory what would fit into registers.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba.core import cgutils

WIDTH = 16 if binding.get_host_cpu_features().get("avx512f") else 8
"""Floats in a vector."""
VECTOR = ir.VectorType(ir.FloatType(), WIDTH)
FLOAT_BYTES = 4
LOG2_E = np.float32(1.4426950408889634)
_SERIES = (1.5403530e-4, 1.3333558e-3, 9.6181291e-3, 5.5504109e-2, 2.4022651e-1, 6.9314718e-1, 1.0)
"""Taylor series of 2^x, highest power first: for -0.5 <= x <= 0.5 right to the last bit but one."""


def open_arrays(context: Any, builder: Any, signature: Any, given: Any, numbers: Sequence[int]) -> list[Any]:
    """The arrays among what is given to compiled code, by their numbers."""
    return [context.make_array(signature.args[number])(context, builder, given[number]) for number in numbers]


def spread(builder: Any, value: Any) -> Any:
    """A vector whose elements are all this value."""
    nothing, number = ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined), ir.IntType(32)
    first = builder.insert_element(nothing, value, number(0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(number, WIDTH), [0] * WIDTH))


def load(builder: Any, address: Any) -> Any:
    """The vector that begins with this float."""
    return builder.load(builder.bitcast(address, VECTOR.as_pointer()), align=FLOAT_BYTES)


def store(builder: Any, value: Any, address: Any) -> None:
    """Write a vector so that it begins with this float."""
    builder.store(value, builder.bitcast(address, VECTOR.as_pointer()), align=FLOAT_BYTES)


def split(builder: Any, address: Any, num_floats: int) -> list[Any]:
    """Addresses of the vectors of so many floats."""
    return [builder.gep(address, [ir.IntType(64)(first)]) for first in range(0, num_floats, WIDTH)]


def find(builder: Any, array: Any, row: Any, column: Any) -> Any:
    """Address of an element of a contiguous array of two dimensions."""
    num_columns = builder.extract_value(array.shape, 1)
    return builder.gep(array.data, [builder.add(builder.mul(row, num_columns), column)])


def multiply_add(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the processor can, as it is elsewhere in these loops."""
    return builder.call(_declare(builder, "fmuladd", 3), [a, b, c])


def add_within(builder: Any, vectors: Sequence[Any]) -> Any:
    """The sums of the elements of each of `WIDTH` vectors, in one vector."""
    number = ir.IntType(32)
    even, odd = (ir.Constant(ir.VectorType(number, WIDTH), list(range(first, 2 * WIDTH, 2))) for first in (0, 1))
    while len(vectors) > 1:
        # Neighbours meet, so half as many vectors hold as many sums of each.
        pairs = zip(vectors[::2], vectors[1::2], strict=True)
        vectors = [
            builder.fadd(builder.shuffle_vector(*pair, even), builder.shuffle_vector(*pair, odd)) for pair in pairs
        ]
    return vectors[0]


def raise_two(builder: Any, power: Any) -> Any:
    """2^x of a vector for x <= 0; NaN stays NaN."""
    least = ir.Constant(VECTOR, [-126.0] * WIDTH)
    power = builder.select(builder.fcmp_ordered("<", power, least), least, power)
    whole = _round_down(builder, builder.fadd(power, ir.Constant(VECTOR, [0.5] * WIDTH)))
    rest = builder.fsub(power, whole)
    result = ir.Constant(VECTOR, [_SERIES[0]] * WIDTH)
    for factor in _SERIES[1:]:
        result = multiply_add(builder, result, rest, ir.Constant(VECTOR, [factor] * WIDTH))
    # The whole part is the exponent of a float.
    numbers = ir.VectorType(ir.IntType(32), WIDTH)
    exponent = builder.add(builder.fptosi(whole, numbers), ir.Constant(numbers, [127] * WIDTH))
    bits = builder.shl(exponent, ir.Constant(numbers, [23] * WIDTH))
    return builder.fmul(result, builder.bitcast(bits, VECTOR))


def larger(builder: Any, a: Any, b: Any) -> Any:
    """The larger one of each two elements; b's where one is NaN."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def largest_within(builder: Any, vector: Any) -> Any:
    """The largest element."""
    return _fold(builder, vector, functools.partial(larger, builder))


def sum_within(builder: Any, vector: Any) -> Any:
    """The sum of the elements."""
    return _fold(builder, vector, builder.fadd)


def _fold(builder: Any, vector: Any, combine: Any) -> Any:
    number = ir.IntType(32)
    half = WIDTH // 2
    while half:
        others = ir.Constant(ir.VectorType(number, WIDTH), [(lane + half) % WIDTH for lane in range(WIDTH)])
        vector = combine(vector, builder.shuffle_vector(vector, vector, others))
        half //= 2
    return builder.extract_element(vector, number(0))


def _round_down(builder: Any, value: Any) -> Any:
    """The greatest whole numbers that are not greater."""
    return builder.call(_declare(builder, "floor", 1), [value])


def _declare(builder: Any, name: str, num_given: int) -> Any:
    kind = ir.FunctionType(VECTOR, [VECTOR] * num_given)
    return cgutils.get_or_insert_function(builder.module, kind, f"llvm.{name}.v{WIDTH}f32")
