"""Expands a block of a codebook weight, for products with so many rows that expanding costs less than looking up."""

from __future__ import annotations

from typing import Any

from numba import njit, types

from prefillshare.compiled import compile_ahead

_Floats2, _Floats3 = (types.Array(types.float32, n, "C") for n in (2, 3))
_Bytes3, _Scales2 = types.Array(types.uint8, 3, "A"), types.Array(types.float32, 2, "A")
_Sizes = types.Array(types.int64, 1, "C")


@njit(fastmath=True, error_model="numpy", inline="always")
def _write_four(entry: Any, scale: Any, weights: Any) -> None:
    a, b, c, d = entry[0], entry[1], entry[2], entry[3]
    weights[0], weights[1], weights[2], weights[3] = scale * a, scale * b, scale * c, scale * d


@njit(fastmath=True, error_model="numpy", inline="always")
def _add_four(entry: Any, scale: Any, weights: Any) -> None:
    a, b, c, d = entry[0], entry[1], entry[2], entry[3]
    weights[0] += scale * a
    weights[1] += scale * b
    weights[2] += scale * c
    weights[3] += scale * d


@compile_ahead(types.void(_Bytes3, _Sizes, _Floats3, _Scales2, _Floats2), error_model="numpy", fastmath=True)
def expand(codes: Any, outputs: Any, entries: Any, scales: Any, weights: Any) -> None:
    """Write the weights of one block.

    Shapes: codes (groups, terms, 256), outputs (256: which of the block each place is), entries (m, 256, v), scales
    (groups, 256) by output, weights (256, in).
    """
    num_codes, _, length = entries.shape
    num_groups, num_terms, num_places = codes.shape
    group_inputs = num_terms // num_codes * length
    for group in range(num_groups):
        for place in range(num_places):
            output = outputs[place]
            scale = scales[group, output]
            for segment in range(num_terms // num_codes):
                first = group * group_inputs + segment * length
                for code in range(num_codes):
                    named = codes[group, segment * num_codes + code, place]
                    for i in range(0, length, 4):
                        entry, target = entries[code, named, i : i + 4], weights[output, first + i : first + i + 4]
                        if code == 0:
                            _write_four(entry, scale, target)
                        else:
                            _add_four(entry, scale, target)
