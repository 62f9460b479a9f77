"""Attention of new tokens over KV where it lies, compiled by numba.

A call of an agent adds some tens of tokens to hundreds that are cached. Products of a library want the keys and values
of each sequence side by side, one call for each head, and all scores in memory, which takes several times as long as
the arithmetic. Here a block of queries meets a block of keys, and what is between them stays in the processor's caches:

    queries   of a KV head: token 0 by its heads 0, 1, .., token 1 by its heads 0, 1, .. | `_LANES` at most
    scores    line j: key j of the block | query 0, 1, 2, ...
    sums      line d: element d of the values | query 0, 1, 2, ...

A query is a place within vectors all the way, so its largest score and the sum of its shares need nothing from beside
it. Shares are of the largest score so far; what was summed before is made smaller once a larger one comes. One thread.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.prefetching import LINE, emit_prefetch
from sglang_patches.cpu.vectors import (
    LOG2_E,
    VECTOR,
    WIDTH,
    larger,
    load,
    multiply_add,
    open_arrays,
    raise_two,
    spread,
    store,
)

_F4 = np.float32
_MATH = {"contract", "nsz"}
"""Each query's sums are in the order of the keys, so they are the same to the bit whoever is beside it."""
_KEYS = 64
"""Keys of a block: they, their values, the queries and the scores together fit the processor's nearest caches."""
_MOST_VECTORS = 4 if WIDTH == 16 else 2
_LANES = _MOST_VECTORS * WIDTH
_TOGETHER = 4
"""Keys, or elements of values, whose products are summed at once; a head's size has to be a multiple. With
`_MOST_VECTORS` of queries for each, their sums fit into registers."""

_Heads = types.Array(types.float32, 3, "C")
_Table = types.Array(types.int32, 2, "C")
_Numbers = types.Array(types.int64, 1, "C")
_SIGNATURE = types.void(_Heads, _Heads, _Heads, _Table, _Numbers, _Numbers, _Numbers, _Numbers, types.float32, _Heads)


@functools.cache
def make_extend_attention(size: int) -> Callable[..., None]:
    """Attention of heads of `size`; compiled now, or found where an earlier process left it."""

    @compile_ahead(_SIGNATURE, fastmath=_MATH, error_model="numpy")
    def attend(
        queries: Any,
        k_cache: Any,
        v_cache: Any,
        table: Any,
        rows: Any,
        lengths: Any,
        begins: Any,
        counts: Any,
        scale: Any,
        output: Any,
    ) -> None:
        """Write each new token's attention over its sequence up to itself.

        Shapes: queries and output (tokens of the batch, heads, size), caches (pool, KV heads, size), table (requests of
        the pool, longest), the others (sequences,): row of the table, tokens of the sequence, and which tokens of the
        batch are its new ones, from the first on and how many.
        """
        num_kv_heads = k_cache.shape[1]
        num_groups = queries.shape[1] // num_kv_heads
        turned, sums = np.empty((size, _LANES), _F4), np.empty((size, _LANES), _F4)
        scores = np.empty((_KEYS, _LANES), _F4)
        # Of each query: its largest score so far, and the sum of its shares.
        state = np.empty((2, _LANES), _F4)
        # Of the keys of a block and of the next one.
        places = np.empty(2 * _KEYS, np.int64)
        for number in range(rows.size):
            slots, begin, num_new = table[rows[number], : lengths[number]], begins[number], counts[number]
            num_cached, num_queries = slots.size - num_new, num_new * num_groups
            for head in range(num_kv_heads):
                for first in range(0, num_queries, _LANES):
                    num_here = min(num_queries - first, _LANES)
                    for i in range(_LANES):
                        # Places of nobody repeat the last query.
                        query = first + min(i, num_here - 1)
                        line = queries[begin + query // num_groups, head * num_groups + query % num_groups]
                        for d in range(size):
                            turned[d, i] = line[d] * (scale * LOG2_E)
                    sums[:], state[0], state[1] = _F4(0), _F4(-np.inf), _F4(0)
                    # Keys that the block's last query sees.
                    end = num_cached + (first + num_here - 1) // num_groups + 1
                    for t in range(0, end, _KEYS):
                        num_keys = min(end - t, _KEYS)
                        for j in range(places.size):
                            places[j] = (slots[min(t + j, end - 1)] * num_kv_heads + head) * size
                        num_vectors = (num_here + WIDTH - 1) // WIDTH
                        _score(turned, k_cache, v_cache, places, num_keys, size, num_vectors, scores)
                        for j in range(max(num_cached + first // num_groups + 1 - t, 0), num_keys):
                            # Queries of the tokens before a key do not see it.
                            scores[j, : max((t + j - num_cached) * num_groups - first, 0)] = _F4(-np.inf)
                        _add_shares(scores, v_cache, places, num_keys, size, num_vectors, state, sums)
                    for i in range(num_here):
                        query = first + i
                        line = output[begin + query // num_groups, head * num_groups + query % num_groups]
                        for d in range(size):
                            line[d] = sums[d, i] / state[1, i]

    return attend


@intrinsic
def _score(
    _: Any,
    turned: Any,
    k_cache: Any,
    v_cache: Any,
    places: Any,
    num_keys: Any,
    size: Any,
    num_vectors: Any,
    scores: Any,
) -> Any:
    """Write the product of each key of a block and each query."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        queries, keys, values, starts, lines = _find_data(context, builder, signature, given, (0, 1, 2, 3, 7))
        index, last, length = given[4].type, given[4], given[5]
        for vectors in _each_number(builder, given[6]):
            with cgutils.for_range_slice(builder, index(0), last, index(_TOGETHER)) as (first, _):
                at = [builder.add(first, index(number)) for number in range(_TOGETHER)]
                begins = [builder.gep(keys, [builder.load(builder.gep(starts, [key]))]) for key in at]
                for key in at:
                    start = builder.load(builder.gep(starts, [builder.add(key, index(_KEYS))]))
                    _fetch(builder, (keys, values), start, length)
                held = _Sums(builder, [[ir.Constant(VECTOR, None)] * vectors] * _TOGETHER)
                with cgutils.for_range(builder, length) as loop:
                    factors = [builder.gep(begin, [loop.index]) for begin in begins]
                    held.add(factors, _find_line(builder, queries, loop.index), vectors)
                for key, totals in zip(at, held.read(), strict=True):
                    _store_line(builder, totals, _find_line(builder, lines, key))
        return context.get_dummy_value()

    return types.void(turned, k_cache, v_cache, places, num_keys, size, num_vectors, scores), generate


@intrinsic
def _add_shares(
    _: Any, scores: Any, v_cache: Any, places: Any, num_keys: Any, size: Any, num_vectors: Any, state: Any, sums: Any
) -> Any:
    """Add the values of a block, by the shares that its scores give them; the scores become shares."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        lines, values, starts, known, totals = _find_data(context, builder, signature, given, (0, 1, 2, 6, 7))
        index, last, length = given[3].type, given[3], given[4]
        for vectors in _each_number(builder, given[5]):
            smaller = [_share(builder, lines, last, known, number * WIDTH) for number in range(vectors)]
            with cgutils.for_range_slice(builder, index(0), length, index(_TOGETHER)) as (first, _):
                at = [_find_line(builder, totals, builder.add(first, index(n))) for n in range(_TOGETHER)]
                held = _Sums(builder, [_scale(builder, _load_line(builder, line, vectors), smaller) for line in at])
                with cgutils.for_range(builder, last) as loop:
                    start = builder.add(builder.load(builder.gep(starts, [loop.index])), first)
                    factors = [builder.gep(values, [builder.add(start, index(n))]) for n in range(_TOGETHER)]
                    held.add(factors, _find_line(builder, lines, loop.index), vectors)
                for line, after in zip(at, held.read(), strict=True):
                    _store_line(builder, after, line)
        return context.get_dummy_value()

    return types.void(scores, v_cache, places, num_keys, size, num_vectors, state, sums), generate


def _fetch(builder: Any, caches: Sequence[Any], start: Any, size: Any) -> None:
    """Fetch a key and its value."""
    for cache in caches:
        with cgutils.for_range_slice(builder, size.type(0), size, size.type(LINE)) as (element, _):
            emit_prefetch(builder, builder.gep(cache, [builder.add(start, element)]))


class _Sums:
    """Vectors that a loop adds to; the compiler keeps them in registers."""

    def __init__(self, builder: Any, begin: Sequence[Sequence[Any]]) -> None:
        self._builder = builder
        self._places = [[cgutils.alloca_once(builder, VECTOR) for _ in line] for line in begin]
        for places, line in zip(self._places, begin, strict=True):
            for place, value in zip(places, line, strict=True):
                builder.store(value, place)

    def add(self, factors: Sequence[Any], line: Any, vectors: int) -> None:
        """Add each factor's product with a line of vectors."""
        loaded = _load_line(self._builder, line, vectors)
        for factor, places in zip(factors, self._places, strict=True):
            spread_out = spread(self._builder, self._builder.load(factor))
            for vector, place in zip(loaded, places, strict=True):
                total = multiply_add(self._builder, spread_out, vector, self._builder.load(place))
                self._builder.store(total, place)

    def read(self) -> list[list[Any]]:
        """What they are now."""
        return [[self._builder.load(place) for place in line] for line in self._places]


def _share(builder: Any, lines: Any, num_keys: Any, known: Any, lane: int) -> Any:
    """Make shares of a vector of each line, and return the factor of what was summed before."""
    index = num_keys.type
    of_lane = builder.gep(lines, [index(lane)])
    largest_at, total_at = (builder.gep(known, [index(lane + row * _LANES)]) for row in range(2))
    before = load(builder, largest_at)
    held = cgutils.alloca_once_value(builder, before)
    with cgutils.for_range(builder, num_keys) as loop:
        score, most = load(builder, _find_line(builder, of_lane, loop.index)), builder.load(held)
        builder.store(larger(builder, score, most), held)
    largest = builder.load(held)
    factor = raise_two(builder, builder.fsub(before, largest))
    total = cgutils.alloca_once_value(builder, builder.fmul(load(builder, total_at), factor))
    with cgutils.for_range(builder, num_keys) as loop:
        line = _find_line(builder, of_lane, loop.index)
        share = raise_two(builder, builder.fsub(load(builder, line), largest))
        store(builder, share, line)
        builder.store(builder.fadd(builder.load(total), share), total)
    store(builder, largest, largest_at)
    store(builder, builder.load(total), total_at)
    return factor


def _each_number(builder: Any, number: Any) -> Iterator[int]:
    """Code of its own for each number of vectors, of which the right one runs."""
    for vectors in range(1, _MOST_VECTORS + 1):
        with builder.if_then(builder.icmp_signed("==", number, number.type(vectors))):
            yield vectors


def _find_data(context: Any, builder: Any, signature: Any, given: Any, numbers: Sequence[int]) -> list[Any]:
    return [array.data for array in open_arrays(context, builder, signature, given, numbers)]


def _find_line(builder: Any, lines: Any, number: Any) -> Any:
    return builder.gep(lines, [builder.mul(number, number.type(_LANES))])


def _load_line(builder: Any, line: Any, vectors: int) -> list[Any]:
    return [load(builder, builder.gep(line, [ir.IntType(64)(number * WIDTH)])) for number in range(vectors)]


def _scale(builder: Any, values: Sequence[Any], factors: Sequence[Any]) -> list[Any]:
    return [builder.fmul(value, factor) for value, factor in zip(values, factors, strict=True)]


def _store_line(builder: Any, values: Sequence[Any], line: Any) -> None:
    for number, value in enumerate(values):
        store(builder, value, builder.gep(line, [ir.IntType(64)(number * WIDTH)]))
