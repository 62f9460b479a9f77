"""Attention of a decode step over KV where it lies, compiled by numba.

PyTorch's attention wants the keys and values of a sequence side by side: to copy them there takes as long as to read
them from memory, twice. These loops read each key and each value once, for all queries that share its head, those of a
request's second row (:mod:`sglang_patches.icarus.rows`) among them. So a second row costs arithmetic only, and that
takes less time than the memory does. One thread; ``scores`` of one request at a time:

    KV head h | query i of head h: own row's groups, then the second row's | token t

A head's size is a constant of the compiled code: with one that is known only when it runs, both rows take 1.4 times as
long as one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types

from prefillshare.compiled import compile_ahead
from sglang_patches.cpu.prefetching import LINE, prefetch

_F4 = np.float32
_LOG2_E = _F4(1.4426950408889634)
_MATH = {"reassoc", "contract", "nsz", "arcp"}
"""Sums in any order; NaN stays NaN."""
_AHEAD = 8
"""Tokens between the one that is read and the one that is fetched: KV lies where rows of the pool are free, and what
the processor fetches by itself ends with each page."""
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
            _score(together, k_cache, slots, num_queries, size, scores)
            _normalize(scores, num_queries, slots.size)
            _sum_values(scores, v_cache, slots, num_queries, size, sums)
            for row in range(num_rows):
                at = number if row == 0 else second[number]
                for head in range(num_heads):
                    for d in range(size):
                        output[at, head, d] = sums[head // num_groups, row * num_groups + head % num_groups, d]

    return attend


@_inlined
def _fetch(head: Any) -> None:
    for d in range(0, head.size, LINE):
        prefetch(head, d)


@_inlined
def _score(together: Any, k_cache: Any, slots: Any, num_queries: Any, size: Any, scores: Any) -> None:
    """Products of each query and each key; three queries at a time, so that a key is loaded less often."""
    for t in range(slots.size):
        ahead = slots[min(t + _AHEAD, slots.size - 1)]
        for h in range(k_cache.shape[1]):
            _fetch(k_cache[ahead, h])
            key, i = k_cache[slots[t], h], 0
            while i + 3 <= num_queries:
                first, second, third = together[h, i], together[h, i + 1], together[h, i + 2]
                a, b, c = _F4(0), _F4(0), _F4(0)
                for d in range(size):
                    a += first[d] * key[d]
                    b += second[d] * key[d]
                    c += third[d] * key[d]
                scores[h, i, t], scores[h, i + 1, t], scores[h, i + 2, t] = a, b, c
                i += 3
            while i < num_queries:
                query, a = together[h, i], _F4(0)
                for d in range(size):
                    a += query[d] * key[d]
                scores[h, i, t] = a
                i += 1


@_inlined
def _sum_values(scores: Any, v_cache: Any, slots: Any, num_queries: Any, size: Any, sums: Any) -> None:
    """Values by their shares; four tokens at a time, so that a sum is loaded and stored less often."""
    sums[:] = _F4(0)
    num_whole = slots.size - slots.size % 4
    for t in range(0, num_whole, 4):
        for h in range(v_cache.shape[1]):
            for ahead in range(t + _AHEAD, t + _AHEAD + 4):
                _fetch(v_cache[slots[min(ahead, slots.size - 1)], h])
            a, b, c, e = (
                v_cache[slots[t], h],
                v_cache[slots[t + 1], h],
                v_cache[slots[t + 2], h],
                v_cache[slots[t + 3], h],
            )
            for i in range(num_queries):
                line, total = scores[h, i], sums[h, i]
                p, q, r, s = line[t], line[t + 1], line[t + 2], line[t + 3]
                for d in range(size):
                    total[d] += p * a[d] + q * b[d] + r * c[d] + s * e[d]
    for t in range(num_whole, slots.size):
        for h in range(v_cache.shape[1]):
            value = v_cache[slots[t], h]
            for i in range(num_queries):
                p, total = scores[h, i, t], sums[h, i]
                for d in range(size):
                    total[d] += p * value[d]


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
