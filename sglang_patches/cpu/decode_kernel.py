"""Attention of a decode step over KV where it lies, compiled by numba.

PyTorch's attention wants the keys and values of a sequence side by side: to copy them there takes as long as to read
them from memory, twice. These loops read each key and each value once, for all queries that share its head, those of a
request's second row (:mod:`sglang_patches.icarus.rows`) among them. So a second row costs arithmetic only. `WIDTH`
tokens of a head at a time, whose products with a query are added up within all their vectors at once, which a processor
does in half the time that it needs for one after the other. One thread; ``scores`` of one request at a time:

    KV head h | query i of head h: own row's groups, then the second row's | token t

A head's size is a constant of the compiled code, and has to be a multiple of `WIDTH`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.prefetching import LINE, emit_prefetch
from sglang_patches.cpu.vectors import VECTOR, WIDTH, add_within, find, load, multiply_add, split, spread, store

_F4 = np.float32
_LOG2_E = _F4(1.4426950408889634)
_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums in any order; NaN stays NaN."""
_PAGE = 1024
"""Floats of 4 bytes in a page of memory."""
_inlined = functools.partial(njit, fastmath=_MATH, inline="always")

_Heads = types.Array(types.float32, 3, "C")
_Table = types.Array(types.int32, 2, "C")
_Numbers = types.Array(types.int64, 1, "C")
_SIGNATURE = types.void(_Heads, _Heads, _Heads, _Table, _Numbers, _Numbers, _Numbers, types.float32, _Heads)


@functools.cache
def make_decode_attention(size: int) -> Callable[..., None]:
    """Attention of heads of `size`; compiled now, or found where an earlier process left it."""

    @compile_ahead(_SIGNATURE, fastmath=_MATH, error_model="numpy")
    def attend(
        queries: Any,
        k_cache: Any,
        v_cache: Any,
        table: Any,
        rows: Any,
        lengths: Any,
        second: Any,
        scale: Any,
        output: Any,
    ) -> None:
        """Write each query's attention over the sequence of its request.

        Shapes: queries and output (own + second rows, heads, size), caches (pool, KV heads, size), table (requests of
        the pool, longest), the others (requests of the batch,): row of the table, tokens of the sequence, and index of
        the second row among the queries, or -1.
        """
        num_heads, num_kv_heads = queries.shape[1], k_cache.shape[1]
        num_groups = num_heads // num_kv_heads
        together = np.empty((num_kv_heads, 2 * num_groups, size), np.float32)
        sums = np.empty((num_kv_heads, 2 * num_groups, size), np.float32)
        places = np.empty(2 * WIDTH, np.int64)
        longest = lengths.max()
        # Lines of whole pages would all lie in the same places of the processor's cache.
        scores = np.empty((num_kv_heads, 2 * num_groups, longest - longest % _PAGE + _PAGE + LINE), np.float32)
        for number in range(rows.size):
            num_rows = 1 if second[number] < 0 else 2
            num_queries, slots = num_rows * num_groups, table[rows[number], : lengths[number]]
            for row in range(num_rows):
                at = number if row == 0 else second[number]
                for head in range(num_heads):
                    for d in range(size):
                        group = row * num_groups + head % num_groups
                        together[head // num_groups, group, d] = queries[at, head, d] * scale
            for t in range(0, slots.size, WIDTH):
                _find_places(slots, t, num_kv_heads * size, places)
                for h in range(num_kv_heads):
                    _score(together[h], k_cache, places, h, num_queries, t, scores[h], size)
            _normalize(scores, num_queries, slots.size)
            scores[:, :, slots.size : slots.size + WIDTH] = _F4(0)
            sums[:] = _F4(0)
            for t in range(0, slots.size, WIDTH):
                _find_places(slots, t, num_kv_heads * size, places)
                for h in range(num_kv_heads):
                    _add_values(scores[h], v_cache, places, h, num_queries, t, sums[h], size)
            for row in range(num_rows):
                at = number if row == 0 else second[number]
                for head in range(num_heads):
                    for d in range(size):
                        output[at, head, d] = sums[head // num_groups, row * num_groups + head % num_groups, d]

    return attend


@_inlined
def _find_places(slots: Any, first: Any, num_floats: Any, places: Any) -> None:
    """Where the next tokens lie in the caches, and behind them those that are fetched meanwhile.

    Behind the last token there is the last one again.
    """
    for j in range(places.size):
        places[j] = np.int64(slots[min(first + j, slots.size - 1)]) * num_floats


@intrinsic(prefer_literal=True)
def _score(
    _: Any, queries: Any, k_cache: Any, places: Any, head: Any, num_queries: Any, first: Any, scores: Any, size: Any
) -> Any:
    """Write the products of `WIDTH` keys of a head and its queries."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        asked, cache, starts, lines = _open(context, builder, signature, given, (0, 1, 2, 6))
        index, length = given[4].type, size.literal_value
        for fetches, number in _each_query(builder, given[4]):
            query = split(builder, find(builder, asked, number, index(0)), length)
            dots = []
            for key in range(WIDTH):
                dot = ir.Constant(VECTOR, None)
                here, next_one = (_head_of(builder, cache, starts, n, given[3], length) for n in (key, key + WIDTH))
                for place, factor in zip(split(builder, here, length), query, strict=True):
                    dot = multiply_add(builder, load(builder, factor), load(builder, place), dot)
                if fetches:
                    _fetch(builder, next_one, length)
                dots.append(dot)
            store(builder, add_within(builder, dots), find(builder, lines, number, given[5]))
        return context.get_dummy_value()

    return types.void(queries, k_cache, places, head, num_queries, first, scores, size), generate


@intrinsic(prefer_literal=True)
def _add_values(
    _: Any, scores: Any, v_cache: Any, places: Any, head: Any, num_queries: Any, first: Any, sums: Any, size: Any
) -> Any:
    """Add `WIDTH` values of a head, by the shares that each query gives them."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        shares, cache, starts, totals = _open(context, builder, signature, given, (0, 1, 2, 6))
        index, length = given[4].type, size.literal_value
        for fetches, number in _each_query(builder, given[4]):
            at = split(builder, find(builder, totals, number, index(0)), length)
            held, begin = [load(builder, place) for place in at], find(builder, shares, number, given[5])
            for token in range(WIDTH):
                here, next_one = (_head_of(builder, cache, starts, n, given[3], length) for n in (token, token + WIDTH))
                share = spread(builder, builder.load(builder.gep(begin, [index(token)])))
                values = [load(builder, place) for place in split(builder, here, length)]
                held = [multiply_add(builder, share, *pair) for pair in zip(values, held, strict=True)]
                if fetches:
                    _fetch(builder, next_one, length)
            for total, place in zip(held, at, strict=True):
                store(builder, total, place)
        return context.get_dummy_value()

    return types.void(scores, v_cache, places, head, num_queries, first, sums, size), generate


def _each_query(builder: Any, num_queries: Any) -> Iterator[tuple[bool, Any]]:
    """Code for the first query, which fetches what comes next, and for the others."""
    index = num_queries.type
    yield True, index(0)
    with cgutils.for_range_slice(builder, index(1), num_queries, index(1)) as (number, _):
        yield False, number


def _open(context: Any, builder: Any, signature: Any, given: Any, numbers: Sequence[int]) -> list[Any]:
    return [context.make_array(signature.args[n])(context, builder, given[n]) for n in numbers]


def _head_of(builder: Any, cache: Any, starts: Any, number: int, head: Any, size: int) -> Any:
    """Address of what a token keeps for a head."""
    start = builder.load(builder.gep(starts.data, [head.type(number)]))
    return builder.gep(cache.data, [builder.add(start, builder.mul(head, head.type(size)))])


def _fetch(builder: Any, address: Any, size: int) -> None:
    for first in range(0, size, LINE):
        emit_prefetch(builder, builder.gep(address, [ir.IntType(64)(first)]))


@njit(fastmath=_MATH)
def _normalize(scores: Any, num_queries: Any, length: Any) -> None:
    """The softmax of each query's scores, in place."""
    bits = np.empty(length, np.int32)
    powers = bits.view(np.float32)
    for h in range(scores.shape[0]):
        for i in range(num_queries):
            line = scores[h, i, :length]
            _to_powers(line, _largest(line), bits)
            total = _F4(0)
            for t in range(length):
                line[t] = _exp2_of_rest(line[t]) * powers[t]
                total += line[t]
            share = _F4(1) / total
            for t in range(length):
                line[t] *= share


@njit(fastmath=True)
def _largest(line: Any) -> Any:
    # The one place that may assume that there is no NaN: one that is there is found again in the difference to it.
    largest = line[0]
    for t in range(line.size):
        largest = max(largest, line[t])
    return largest


@njit(fastmath=_MATH)
def _to_powers(line: Any, largest: Any, bits: Any) -> None:
    """Split e^(x - largest) = 2^n 2^rest: the rest in place of x, and 2^n as the bits of a float."""
    for t in range(line.size):
        exponent = max((line[t] - largest) * _LOG2_E, _F4(-126))
        whole = np.floor(exponent + _F4(0.5))
        bits[t] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        line[t] = exponent - whole


@_inlined
def _exp2_of_rest(rest: Any) -> Any:
    """2^rest for -0.5 <= rest <= 0.5, to the last bit but one: its Taylor series of degree 6."""
    power = _F4(1.5403530e-4)
    power = power * rest + _F4(1.3333558e-3)
    power = power * rest + _F4(9.6181291e-3)
    power = power * rest + _F4(5.5504109e-2)
    power = power * rest + _F4(2.4022651e-1)
    power = power * rest + _F4(6.9314718e-1)
    return power * rest + _F4(1)
