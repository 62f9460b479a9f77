"""Attention of a decode step over KV where it lies, compiled by numba.

PyTorch's attention wants the keys and values of a sequence side by side: to copy them there takes as long as to read
them from memory, twice. These loops read each key and each value once, for all queries that share its head, those of a
request's second row (:mod:`sglang_patches.icarus.rows`) among them. So a second row costs arithmetic only. `WIDTH`
tokens of a head at a time, whose products with a query are added up within all their vectors at once, in half the time
that it takes for one after the other. One thread; ``scores`` of one request at a time:

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
from sglang_patches.cpu.vectors import (
    LOG2_E,
    VECTOR,
    WIDTH,
    add_within,
    find,
    larger,
    largest_within,
    load,
    multiply_add,
    open_arrays,
    raise_two,
    split,
    spread,
    store,
    sum_within,
)

_F4 = np.float32
_MATH = {"contract", "nsz"}
"""A query's sums are in one order, so they are the same to the bit whoever is beside it; NaN stays NaN."""
_PAGE = 1024
"""Floats of 4 bytes in a page of memory."""

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
        totals = np.empty((num_kv_heads, 2 * num_groups), np.float32)
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
                        together[head // num_groups, group, d] = queries[at, head, d] * (scale * LOG2_E)
            for t in range(0, slots.size, WIDTH):
                _find_places(slots, t, num_kv_heads * size, places)
                for h in range(num_kv_heads):
                    _score(together[h], k_cache, places, h, num_queries, t, scores[h], size)
            # What fills up the last vector has next to no share.
            scores[:, :, slots.size : slots.size + WIDTH] = _F4(-np.inf)
            for h in range(num_kv_heads):
                for i in range(num_queries):
                    totals[h, i] = _make_shares(scores[h], i, slots.size)
            sums[:] = _F4(0)
            for t in range(0, slots.size, WIDTH):
                _find_places(slots, t, num_kv_heads * size, places)
                for h in range(num_kv_heads):
                    _add_values(scores[h], v_cache, places, h, num_queries, t, sums[h], size)
            for row in range(num_rows):
                at = number if row == 0 else second[number]
                for head in range(num_heads):
                    h, i = head // num_groups, row * num_groups + head % num_groups
                    for d in range(size):
                        output[at, head, d] = sums[h, i, d] / totals[h, i]

    return attend


@njit(fastmath=_MATH, inline="always")
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
        asked, cache, starts, lines = open_arrays(context, builder, signature, given, (0, 1, 2, 6))
        index, length = given[4].type, size.literal_value
        for number, fetched in _each_query(builder, given[4], -(-length // LINE)):
            query = split(builder, find(builder, asked, number, index(0)), length)
            dots = []
            for key in range(WIDTH):
                dot = ir.Constant(VECTOR, None)
                here, next_one = (_head_of(builder, cache, starts, n, given[3], length) for n in (key, key + WIDTH))
                for place, factor in zip(split(builder, here, length), query, strict=True):
                    dot = multiply_add(builder, load(builder, factor), load(builder, place), dot)
                _fetch(builder, next_one, fetched)
                dots.append(dot)
            store(builder, add_within(builder, dots), find(builder, lines, number, given[5]))
        return context.get_dummy_value()

    return types.void(queries, k_cache, places, head, num_queries, first, scores, size), generate


@intrinsic
def _make_shares(_: Any, scores: Any, number: Any, length: Any) -> Any:
    """Make shares, of the largest one, of a query's scores; return their sum."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        (lines,) = open_arrays(context, builder, signature, given, (0,))
        index, length = given[2].type, given[2]
        line = find(builder, lines, given[1], index(0))
        held = cgutils.alloca_once_value(builder, load(builder, line))
        with cgutils.for_range_slice(builder, index(0), length, index(WIDTH)) as (first, _):
            score, most = load(builder, builder.gep(line, [first])), builder.load(held)
            builder.store(larger(builder, score, most), held)
        largest = spread(builder, largest_within(builder, builder.load(held)))
        total = cgutils.alloca_once_value(builder, ir.Constant(VECTOR, None))
        with cgutils.for_range_slice(builder, index(0), length, index(WIDTH)) as (first, _):
            place = builder.gep(line, [first])
            share = raise_two(builder, builder.fsub(load(builder, place), largest))
            store(builder, share, place)
            builder.store(builder.fadd(builder.load(total), share), total)
        return sum_within(builder, builder.load(total))

    return types.float32(scores, number, length), generate


@intrinsic(prefer_literal=True)
def _add_values(
    _: Any, scores: Any, v_cache: Any, places: Any, head: Any, num_queries: Any, first: Any, sums: Any, size: Any
) -> Any:
    """Add `WIDTH` values of a head, by the shares that each query gives them."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        shares, cache, starts, totals = open_arrays(context, builder, signature, given, (0, 1, 2, 6))
        index, length = given[4].type, size.literal_value
        for number, fetched in _each_query(builder, given[4], -(-length // LINE)):
            at = split(builder, find(builder, totals, number, index(0)), length)
            held, begin = [load(builder, place) for place in at], find(builder, shares, number, given[5])
            for token in range(WIDTH):
                here, next_one = (_head_of(builder, cache, starts, n, given[3], length) for n in (token, token + WIDTH))
                share = spread(builder, builder.load(builder.gep(begin, [index(token)])))
                values = [load(builder, place) for place in split(builder, here, length)]
                held = [multiply_add(builder, share, *pair) for pair in zip(values, held, strict=True)]
                _fetch(builder, next_one, fetched)
            for total, place in zip(held, at, strict=True):
                store(builder, total, place)
        return context.get_dummy_value()

    return types.void(scores, v_cache, places, head, num_queries, first, sums, size), generate


def _each_query(builder: Any, num_queries: Any, num_lines: int) -> Iterator[tuple[Any, Sequence[Any]]]:
    """Code for each query, and which lines of each of the next tokens it fetches.

    All fetch some: a processor has few lines under way at a time, and with all of them at once it would compute nothing
    meanwhile. Each number of lines is compiled by itself, and the least that is enough for so many queries runs.
    """
    index = num_queries.type
    each = num_lines
    while each:
        is_enough = builder.icmp_signed(">=", builder.mul(num_queries, index(each)), index(num_lines))
        is_least = builder.icmp_signed("<", builder.mul(num_queries, index(each // 2)), index(num_lines))
        each_query = cgutils.for_range_slice(builder, index(0), num_queries, index(1))
        with builder.if_then(builder.and_(is_enough, is_least)), each_query as (number, _):
            first = builder.mul(number, index(each))
            yield number, [builder.urem(builder.add(first, index(line)), index(num_lines)) for line in range(each)]
        each //= 2


def _head_of(builder: Any, cache: Any, starts: Any, number: int, head: Any, size: int) -> Any:
    """Address of what a token keeps for a head."""
    start = builder.load(builder.gep(starts.data, [head.type(number)]))
    return builder.gep(cache.data, [builder.add(start, builder.mul(head, head.type(size)))])


def _fetch(builder: Any, address: Any, lines: Sequence[Any]) -> None:
    for line in lines:
        emit_prefetch(builder, builder.gep(address, [builder.mul(line, line.type(LINE))]))
