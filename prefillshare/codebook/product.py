"""Products of rows with a packed weight: looked up while rows are few, with an expanded weight when they are many.

Kernels are imported when they are first needed: numba compiles them then, or finds them compiled.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prefillshare.codebook.kernels.layout import ENTRIES
from prefillshare.codebook.packed import PackedWeight

_MOST_ROWS_LOOKED_UP = {"vbmi": 128, "floats": 12}
"""Measured by `make bench-codebook`: with more rows expanding is faster."""
_MOST_ROWS_AT_ONCE = 64
"""Tables of so many rows stay in the second cache beside the codes of a block."""


def multiply(rows: Tensor, weight: PackedWeight) -> Tensor:
    """Return rows [N, inputs] times the weight, [N, outputs], in the type of the rows."""
    if rows.shape[0] <= _MOST_ROWS_LOOKED_UP[weight.kernel]:
        return look_up(rows, weight)
    return multiply_expanded(rows, weight)


def look_up(rows: Tensor, weight: PackedWeight) -> Tensor:
    """The product by the weight's kernel."""
    inputs = rows.float().contiguous().numpy()
    sums = np.zeros((inputs.shape[0], weight.arrays[2].shape[1]), np.float32)
    kernel = _look_up_vbmi if weight.kernel == "vbmi" else _look_up_floats
    for first in range(0, len(inputs), _MOST_ROWS_AT_ONCE):
        last = first + _MOST_ROWS_AT_ONCE
        kernel(inputs[first:last], weight, sums[first:last])
    product = torch.from_numpy(sums)
    return (product if product.shape[1] == weight.num_outputs else product[:, : weight.num_outputs]).to(rows.dtype)


def multiply_expanded(rows: Tensor, weight: PackedWeight) -> Tensor:
    """The product with a block of outputs expanded at a time, which stays in the cache."""
    dtype = rows.dtype if rows.dtype == torch.bfloat16 else torch.float32
    parts = [F.linear(rows.to(dtype), block.to(dtype)) for block in expanded_blocks(weight)]
    return torch.cat(parts, dim=1)[:, : weight.num_outputs].to(rows.dtype)


def expanded_blocks(weight: PackedWeight) -> Iterator[Tensor]:
    """Yield the weight's blocks [256, inputs] in float32, one after another in the same memory."""
    from prefillshare.codebook.kernels.expand import expand

    entries = np.ascontiguousarray(weight.codebooks.numpy().transpose(0, 2, 1))
    codes, places = weight.codes.numpy(), weight.places().numpy()
    block = torch.empty((codes.shape[3], weight.num_inputs))
    scales = weight.scales.float().numpy()
    for i in range(codes.shape[1]):
        start = i * codes.shape[3]
        expand(codes[:, i], places, entries, scales[:, start : start + codes.shape[3]], block.numpy())
        yield block


def _look_up_vbmi(rows: np.ndarray, weight: PackedWeight, sums: np.ndarray) -> None:
    from prefillshare.codebook.kernels.vbmi import multiply as add_products

    codes, codebooks, scales = weight.arrays
    num_rows, num_terms = rows.shape[0], codes.shape[2]
    products = np.empty((num_terms, ENTRIES), np.float32)
    tables = np.empty((num_rows, num_terms, 2 * ENTRIES), np.uint8)
    add_products(rows, codes, codebooks, scales, sums, products, tables, np.empty(num_rows, np.float32))


def _look_up_floats(rows: np.ndarray, weight: PackedWeight, sums: np.ndarray) -> None:
    from prefillshare.codebook.kernels.floats import multiply as add_products

    add_products(rows, *weight.arrays, sums)
