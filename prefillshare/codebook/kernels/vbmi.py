"""Products with codebook weights by AVX-512 VBMI: sums of 16 bits, looked up 64 at a time in registers.

For a term (a segment of `v` inputs, one of its `m` codes) the Psumbook has 256 inner products. As 16-bit numbers, low
and high bytes apart, they fill eight registers, in which `vpermi2b` looks up 64 codes at once:

    code of 64 outputs --+-> low bytes   (4 registers) -+-> 16-bit values, added to 16-bit sums of 256 outputs
                         +-> high bytes  (4 registers) -+

At the end of a group of inputs the sums are multiplied by the outputs' scales and added in float32. The factor of the
16-bit numbers is chosen for each row and group such that no sum of a group can overflow: the largest entries of all its
terms add up to :data:`_MOST_SUM`.

numba ends the process on a processor without these instructions: import this only where :func:`~.layout.has_vbmi`. One
thread.

What numba has no words for is written through LLVM: an `@intrinsic` is called like a function, `_emit_...` writes its
instructions. Vectors have 64 elements, those of a register of bytes; LLVM cuts the others up. All of it is in this
file, since numba compiles a function anew only when the file of that function changes.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from prefillshare.codebook.kernels.layout import BLOCK_OUTPUTS, ENTRIES, LANES
from prefillshare.compiled import compile_ahead

_MOST_SUM = 32_000.0
"""Below 32,767 by more than the rounding of a group's terms, half a unit each."""

_Floats1, _Floats2, _Floats3 = (types.Array(types.float32, n, "C") for n in (1, 2, 3))
_Bytes3, _Bytes4 = (types.Array(types.uint8, n, "C") for n in (3, 4))
_Halves2 = types.Array(types.uint16, 2, "C")
_SIZE = ir.IntType(64)
_BYTES = ir.VectorType(ir.IntType(8), LANES)
_WORDS = ir.VectorType(ir.IntType(16), LANES)
_FLOATS = ir.VectorType(ir.FloatType(), LANES)


@intrinsic
def _fill_term(typing: Any, inputs: Any, start: Any, codebooks: Any, code: Any, products: Any, term: Any) -> Any:
    """Compute one term's inner products and return the largest magnitude among them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = _Arrays(context, builder, signature, args)
        return _emit_products(
            builder,
            inputs=arrays.address(0, args[1]),
            codebook=arrays.address(2, args[3], 0, 0),
            products=arrays.address(4, args[5], 0),
            length=arrays.sizes(2)[1],
        )

    return types.float32(inputs, start, codebooks, code, products, term), generate


@intrinsic
def _store_planes(typing: Any, products: Any, term: Any, to_units: Any, tables: Any) -> Any:
    """Turn one term's inner products into its table of low and high bytes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = _Arrays(context, builder, signature, args)
        source, table = arrays.address(0, args[1], 0), arrays.address(3, args[1], 0)
        for first in range(0, ENTRIES, LANES):
            _emit_planes(builder, source, table, first, args[2])
        return context.get_dummy_value()

    return types.void(products, term, to_units, tables), generate


@intrinsic
def _add_block(
    typing: Any,
    codes: Any,
    group: Any,
    block: Any,
    tables: Any,
    row: Any,
    scales: Any,
    start: Any,
    factor: Any,
    sums: Any,
) -> Any:
    """Add one group's terms to the sums of one row and one block of outputs."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        arrays = _Arrays(context, builder, signature, args)
        _emit_block(
            builder,
            codes=arrays.address(0, args[1], args[2], 0, 0),
            tables=arrays.address(3, args[4], 0, 0),
            scales=arrays.address(5, args[1], args[6]),
            sums=arrays.address(8, args[4], args[6]),
            num_terms=arrays.sizes(0)[2],
            factor=args[7],
        )
        return context.get_dummy_value()

    return types.void(codes, group, block, tables, row, scales, start, factor, sums), generate


class _Arrays:
    """The arrays among an intrinsic's arguments."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self._context, self._builder = context, builder
        self._types, self._values = signature.args, args

    def address(self, argument: int, *indices: Any) -> Any:
        """Where the element at the indices lies."""
        array, sizes = self._array(argument), [self._size(index) for index in indices]
        return cgutils.get_item_pointer(self._context, self._builder, self._types[argument], array, sizes)

    def sizes(self, argument: int) -> list[Any]:
        """The array's shape."""
        return cgutils.unpack_tuple(self._builder, self._array(argument).shape)

    def _array(self, argument: int) -> Any:
        return self._context.make_array(self._types[argument])(self._context, self._builder, self._values[argument])

    def _size(self, index: Any) -> Any:
        if isinstance(index, int):
            return ir.Constant(_SIZE, index)
        return index if index.type == _SIZE else self._builder.sext(index, _SIZE)


def _emit_products(builder: Any, *, inputs: Any, codebook: Any, products: Any, length: Any) -> Any:
    floats = ir.VectorType(ir.FloatType(), LANES)
    totals = [cgutils.alloca_once(builder, floats) for _ in range(ENTRIES // LANES)]
    for total in totals:
        builder.store(ir.Constant(floats, None), total)
    with cgutils.for_range(builder, length) as loop:
        value = _spread(builder, builder.load(builder.gep(inputs, [loop.index])), LANES)
        start = builder.mul(loop.index, ir.Constant(loop.index.type, ENTRIES))
        for part, total in enumerate(totals):
            offset = builder.add(start, ir.Constant(loop.index.type, part * LANES))
            entries = builder.load(builder.bitcast(builder.gep(codebook, [offset]), floats.as_pointer()))
            entries.align = 4
            product = builder.fmul(value, entries, flags=("fast",))
            builder.store(builder.fadd(builder.load(total), product, flags=("fast",)), total)
    magnitude = builder.module.declare_intrinsic("llvm.fabs.v64f32", (), ir.FunctionType(floats, [floats]))
    largest = ir.Constant(floats, None)
    for part, total in enumerate(totals):
        values = builder.load(total)
        place = builder.gep(products, [ir.Constant(ir.IntType(64), part * LANES)])
        builder.store(values, builder.bitcast(place, floats.as_pointer())).align = 4
        sizes = builder.call(magnitude, [values])
        is_larger = builder.fcmp_ordered(">", sizes, largest, flags=("fast",))
        largest = builder.select(is_larger, sizes, largest)
    reduce = builder.module.declare_intrinsic(
        "llvm.vector.reduce.fmax.v64f32", (), ir.FunctionType(ir.FloatType(), [floats])
    )
    return builder.call(reduce, [largest], fastmath=("fast",))


def _emit_planes(builder: Any, products: Any, table: Any, first: int, to_units: Any) -> None:
    """Low and high bytes of 64 inner products in units."""

    def vector(element: Any) -> Any:
        return ir.VectorType(element, LANES)

    index, floats, words, octets = ir.IntType(64), vector(ir.FloatType()), vector(ir.IntType(16)), vector(ir.IntType(8))
    values = builder.load(builder.bitcast(builder.gep(products, [ir.Constant(index, first)]), floats.as_pointer()))
    values.align = 4
    # Shifted to be positive, so that the conversion, which cuts off, rounds to the nearest.
    shifted = builder.fadd(
        builder.fmul(values, _spread(builder, to_units, LANES)), ir.Constant(floats, [32_768.5] * LANES)
    )
    units = builder.trunc(builder.fptosi(shifted, vector(ir.IntType(32))), words)
    units = builder.xor(units, ir.Constant(words, [0x8000] * LANES))
    high = builder.lshr(units, ir.Constant(words, [8] * LANES))
    for plane, start in ((units, first), (high, ENTRIES + first)):
        place = builder.bitcast(builder.gep(table, [ir.Constant(index, start)]), octets.as_pointer())
        builder.store(builder.trunc(plane, octets), place).align = 1


def _spread(builder: Any, value: Any, lanes: int) -> Any:
    """A vector that has the value everywhere."""
    undefined = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    single = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(single, undefined, ir.Constant(ir.VectorType(ir.IntType(32), lanes), None))


def _emit_block(builder: Any, *, codes: Any, tables: Any, scales: Any, sums: Any, num_terms: Any, factor: Any) -> None:
    words = ir.VectorType(ir.IntType(16), LANES // 2)
    # Two registers of 16-bit sums for each 64 outputs; LLVM keeps them in registers over the loop.
    totals = [cgutils.alloca_once_value(builder, ir.Constant(words, None)) for _ in range(BLOCK_OUTPUTS // LANES * 2)]
    with cgutils.for_range(builder, num_terms) as loop:
        table = _load_table(builder, tables, loop.index)
        for part in range(BLOCK_OUTPUTS // LANES):
            offset = builder.add(
                builder.mul(loop.index, ir.Constant(loop.index.type, BLOCK_OUTPUTS)),
                ir.Constant(loop.index.type, part * LANES),
            )
            found = _look_up(builder, _load_bytes(builder, builder.gep(codes, [offset])), table)
            for total, values in zip(totals[2 * part : 2 * part + 2], found, strict=True):
                builder.store(builder.add(builder.load(total), values), total)
    _add_scaled(builder, [builder.load(total) for total in totals], scales, sums, factor)


def _load_bytes(builder: Any, pointer: Any) -> Any:
    load = builder.load(builder.bitcast(pointer, ir.VectorType(ir.IntType(8), LANES).as_pointer()))
    load.align = 1
    return load


def _load_table(builder: Any, tables: Any, term: Any) -> list[Any]:
    """The eight registers of a term: four of low bytes, four of high bytes."""
    start = builder.mul(term, ir.Constant(term.type, 2 * ENTRIES))
    offsets = [builder.add(start, ir.Constant(term.type, i * LANES)) for i in range(2 * ENTRIES // LANES)]
    return [_load_bytes(builder, builder.gep(tables, [offset])) for offset in offsets]


def _look_up(builder: Any, codes: Any, table: list[Any]) -> tuple[Any, Any]:
    """The 16-bit entries of 64 codes, as two registers."""
    vector = codes.type
    permute = builder.module.declare_intrinsic(
        "llvm.x86.avx512.vpermi2var.qi.512", (), ir.FunctionType(vector, [vector, vector, vector])
    )
    # vpermi2b reads seven bits of a code, which name a byte of two registers; the eighth chooses between two pairs.
    is_upper = builder.icmp_signed("<", codes, ir.Constant(vector, None))
    planes = []
    for first in (0, 4):
        lower = builder.call(permute, [table[first], codes, table[first + 1]])
        upper = builder.call(permute, [table[first + 2], codes, table[first + 3]])
        planes.append(builder.select(is_upper, upper, lower))
    words = ir.VectorType(ir.IntType(16), LANES // 2)
    low, high = (builder.bitcast(_interleave(builder, planes[0], planes[1], half), words) for half in (0, 8))
    return low, high


def _interleave(builder: Any, low: Any, high: Any, half: int) -> Any:
    """Low and high bytes side by side, of eight in each lane of 16: one `vpunpcklbw` or `vpunpckhbw`."""
    order = [lane + half + i + side for lane in range(0, LANES, 16) for i in range(8) for side in (0, LANES)]
    mask = ir.Constant(ir.VectorType(ir.IntType(32), LANES), order)
    return builder.shuffle_vector(low, high, mask)


def _add_scaled(builder: Any, totals: list[Any], scales: Any, sums: Any, factor: Any) -> None:
    lanes = LANES // 2
    floats, halves = ir.VectorType(ir.FloatType(), lanes), ir.VectorType(ir.HalfType(), lanes)
    index = ir.IntType(64)
    spread = _spread(builder, factor, lanes)
    for i, total in enumerate(totals):
        offset = ir.Constant(index, i * lanes)
        scale = builder.load(builder.bitcast(builder.gep(scales, [offset]), halves.as_pointer()))
        scale.align = 2
        place = builder.bitcast(builder.gep(sums, [offset]), floats.as_pointer())
        old = builder.load(place)
        old.align = 4
        scaled = builder.fmul(builder.fmul(builder.fpext(scale, floats), spread), builder.sitofp(total, floats))
        builder.store(builder.fadd(old, scaled), place).align = 4


@njit(fastmath=True, error_model="numpy", inline="always")
def _fill_tables(inputs: Any, codebooks: Any, products: Any, tables: Any) -> Any:
    num_codes, length = codebooks.shape[0], codebooks.shape[1]
    total = types.float32(0.0)
    for term in range(products.shape[0]):
        start = term // num_codes * length
        total += _fill_term(inputs, start, codebooks, term % num_codes, products, term)
    if total == 0.0:
        for term in range(products.shape[0]):
            tables[term, :] = 0
        return total
    to_units = types.float32(_MOST_SUM) / total
    for term in range(products.shape[0]):
        _store_planes(products, term, to_units, tables)
    return total / types.float32(_MOST_SUM)


@compile_ahead(
    types.void(_Floats2, _Bytes4, _Floats3, _Halves2, _Floats2, _Floats2, _Bytes3, _Floats1), error_model="numpy"
)
def multiply(
    rows: Any, codes: Any, codebooks: Any, scales: Any, sums: Any, products: Any, tables: Any, factors: Any
) -> None:
    """Add the products to the sums.

    Shapes: rows (N, in), codes (groups, blocks, terms, 256) in :func:`~.layout.output_order`, codebooks (m, v, 256),
    scales (groups, blocks * 256) float16 seen as uint16, sums (N, blocks * 256); room to work in: products
    (terms, 256), tables (N, terms, 512), factors (N).
    """
    num_codes, length = codebooks.shape[0], codebooks.shape[1]
    num_terms = codes.shape[2]
    group_inputs = num_terms // num_codes * length
    for group in range(codes.shape[0]):
        first = group * group_inputs
        for row in range(rows.shape[0]):
            inputs = rows[row, first : first + group_inputs]
            factors[row] = _fill_tables(inputs, codebooks, products, tables[row])
        for block in range(codes.shape[1]):
            start = block * BLOCK_OUTPUTS
            # Each code is read from memory once: the rows after the first find it in the nearest cache.
            for row in range(rows.shape[0]):
                _add_block(codes, group, block, tables, row, scales, start, factors[row], sums)
