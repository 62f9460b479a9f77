"""Which entry of a codebook is nearest to each segment, where an error counts differently at each place."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from prefillshare.compiled import compile_ahead

_Floats2 = types.Array(types.float32, 2, "C")
_Sizes = types.Array(types.int64, 1, "C")


@compile_ahead(types.void(_Floats2, _Floats2, _Floats2, _Sizes), fastmath=True, error_model="numpy")
def find_nearest(segments: Any, importance: Any, codebook: Any, nearest: Any) -> None:
    """Write the number of the nearest entry of each segment.

    Shapes: segments and importance (N, v), codebook (v, entries), nearest (N).
    """
    length, num_entries = codebook.shape
    distances = np.empty(num_entries, np.float32)
    for n in range(segments.shape[0]):
        distances[:] = 0
        for i in range(length):
            # Without the segment's own square, which is the same for all entries.
            weight, twice = importance[n, i], types.float32(2.0) * segments[n, i]
            for entry in range(num_entries):
                value = codebook[i, entry]
                distances[entry] += weight * value * (value - twice)
        least = distances[0]
        for entry in range(num_entries):
            least = min(least, distances[entry])
        entry = 0
        while distances[entry] != least and entry < num_entries - 1:
            entry += 1
        nearest[n] = entry
