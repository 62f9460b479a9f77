"""What the CPU platform computes in place of upstream: pure functions of tensors.

Only imported once an engine is being patched, since it imports torch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sglang_patches.cpu import operator_kernels
from sglang_patches.cpu.decode_kernel import make_decode_attention
from sglang_patches.cpu.extend_kernel import make_extend_attention
from sglang_patches.cpu.few_rows_kernel import MOST_ROWS, add_products


def attend_new(query: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, scale: float | None) -> Tensor:
    """Causal attention of a sequence's last tokens.

    Shapes: query (new, heads, size), caches (pool, KV heads, size), slots (length,);
    returns (new, heads, size of values).
    """
    num_new, num_heads, size = query.shape
    num_groups = num_heads // k_cache.shape[1]
    keys = k_cache.index_select(0, slots).transpose(0, 1)
    values = v_cache.index_select(0, slots).transpose(0, 1)
    num_cached = len(slots) - num_new
    # A causal kernel skips what a mask only hides: worth some rows for nothing.
    if num_cached < num_new:
        whole = torch.cat((query.new_zeros(num_cached, num_heads, size), query)).transpose(0, 1)
        out = _sdpa(whole, keys, values, scale, is_causal=True, enable_gqa=num_groups > 1)
        return out[:, num_cached:].transpose(0, 1)
    mask = _mask(num_new, len(slots), num_groups) if num_new > 1 else None
    return _attend_folded(query, keys, values, scale, mask)


def attend_together(query: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, scale: float | None) -> Tensor:
    """Attention of several queries that all see a whole sequence, whose KV is gathered once.

    Shapes: as `attend_new`.
    """
    keys = k_cache.index_select(0, slots).transpose(0, 1)
    values = v_cache.index_select(0, slots).transpose(0, 1)
    return _attend_folded(query, keys, values, scale, None)


def attend_in_place(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    second: Tensor,
    scale: float | None,
    output: Tensor,
) -> Tensor:
    """Attention of a decode step, which reads KV where it lies, into `output`, which is returned.

    Shapes: as `decode_kernel`; all float32 and contiguous but the query.
    """
    size = query.shape[-1]
    numbers = (tensor.to(torch.int64).numpy() for tensor in (req_pool_indices, seq_lens, second))
    factor = np.float32(size**-0.5 if scale is None else scale)
    caches = (k_cache.numpy(), v_cache.numpy())
    given = (query.contiguous().numpy(), *caches, req_to_token.numpy(), *numbers)
    make_decode_attention(size)(*given, factor, output.numpy())
    return output


def attend_new_in_place(
    query: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    req_to_token: Tensor,
    req_pool_indices: Tensor,
    seq_lens: Tensor,
    extend_seq_lens: Tensor,
    scale: float | None,
    output: Tensor,
) -> Tensor:
    """Causal attention of the last tokens of several sequences, which reads KV where it lies, into `output`.

    Shapes: query and output (new tokens of all, heads, size), caches (pool, KV heads, size), extend_seq_lens and the
    others as `decode_kernel`; all float32 and contiguous but the query.
    """
    counts = extend_seq_lens.to(torch.int64).numpy()
    begins = np.cumsum(counts) - counts
    is_single = counts == 1
    # Requests that decode are in the same pass where prompts are computed in chunks: their bits are as in a pass alone.
    if is_single.any():
        of_single = torch.from_numpy(is_single)
        rows, lengths = req_pool_indices[of_single], seq_lens[of_single]
        at = torch.from_numpy(begins[is_single])
        given, attended = query.index_select(0, at), output.new_empty(len(at), *output.shape[1:])
        second = torch.full_like(lengths, -1)
        attend_in_place(given, k_cache, v_cache, req_to_token, rows, lengths, second, scale, attended)
        output.index_copy_(0, at, attended)
    if not is_single.all():
        size, are_more = query.shape[-1], ~is_single
        numbers = (tensor.to(torch.int64).numpy()[are_more] for tensor in (req_pool_indices, seq_lens))
        tensors = (tensor.numpy() for tensor in (query.contiguous(), k_cache, v_cache, req_to_token))
        factor = np.float32(size**-0.5 if scale is None else scale)
        new = (begins[are_more], counts[are_more])
        make_extend_attention(size)(*tensors, *numbers, *new, factor, output.numpy())
    return output


def _attend_folded(query: Tensor, keys: Tensor, values: Tensor, scale: float | None, mask: Tensor | None) -> Tensor:
    """Queries of the heads that share a KV head side by side, as further queries of it.

    Shapes: keys and values (KV heads, length, size).
    """
    num_rows, num_heads, size = query.shape
    num_groups = num_heads // len(keys)
    if num_rows == 1:
        return _sdpa(query.view(-1, num_groups, size), keys, values, scale).reshape(1, num_heads, -1)
    folded = query.view(num_rows, -1, num_groups, size).permute(1, 2, 0, 3).reshape(-1, num_groups * num_rows, size)
    out = _sdpa(folded, keys, values, scale, attn_mask=mask)
    return out.view(-1, num_groups, num_rows, out.shape[-1]).permute(2, 0, 1, 3).reshape(num_rows, num_heads, -1)


def _mask(num_new: int, length: int, num_groups: int) -> Tensor:
    """Which keys each query sees, true = visible (groups * new, length)."""
    visible = torch.ones(num_new, length, dtype=torch.bool).tril(length - num_new)
    return visible.repeat(num_groups, 1)


def _sdpa(query: Tensor, keys: Tensor, values: Tensor, scale: float | None, **options: Any) -> Tensor:
    return scaled_dot_product_attention(query[None], keys[None], values[None], scale=scale, **options)[0]


def can_loop(*tensors: Tensor) -> bool:
    """Whether loops of one thread can compute with these tensors of the CPU, and are the faster way."""
    is_plain = all(tensor.dtype == torch.float32 and tensor.is_contiguous() for tensor in tensors)
    return is_plain and torch.get_num_threads() == 1


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight, over the last dimension."""
    if can_loop(x):
        output, size = torch.empty_like(x), x.shape[-1]
        rows, out_rows = x.view(-1, size).numpy(), output.view(-1, size).numpy()
        operator_kernels.normalize(rows, weight.detach().numpy(), np.float32(epsilon), out_rows)
        return output
    # The hypotenuse of both roots is the root of their squares' sum: no square, sum and root of their own.
    mean_root = torch.linalg.vector_norm(x, dim=-1, keepdim=True).mul_(x.shape[-1] ** -0.5)
    return (x / torch.hypot(mean_root, _root(epsilon))).mul_(weight)


@functools.cache
def _root(value: float) -> Tensor:
    return torch.tensor(value**0.5)


def rotate_both(query: Tensor, key: Tensor, positions: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Turn pairs (i, i + size / 2) of each head by the position's angles.

    Shapes: query, key and the results (tokens, heads, size), positions (tokens,), table (all positions, size):
    cosines, then sines.
    """
    if not can_loop(table):
        rows = table.index_select(0, positions)
        out_query, out_key = _rotate(torch.cat((query, key), dim=1), rows).split((query.shape[1], key.shape[1]), dim=1)
        return out_query, out_key
    numbers, angles = positions.to(torch.int64).numpy(), table.numpy()
    turned = torch.empty(query.shape), torch.empty(key.shape)
    for x, output in zip((query, key), turned, strict=True):
        operator_kernels.rotate(x.contiguous().numpy(), numbers, angles, output.numpy())
    return turned


def _rotate(x: Tensor, rows: Tensor) -> Tensor:
    # Each half of the result needs both halves of x, so it cannot be written in place.
    half = x.shape[-1] // 2
    cos, sin = rows[:, None, :half], rows[:, None, half:]
    first, second = x[..., :half], x[..., half:]
    out = torch.empty_like(x)
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=out[..., half:]).addcmul_(first, sin)
    return out


def lay_by_inputs(weight: Tensor) -> Tensor:
    """The same matrix, whose columns lie one after the other in memory.

    Shapes: weight and the result (out, in).
    """
    return weight.t().contiguous().t()


def is_for_onednn(tensor: Tensor) -> bool:
    """Whether this build of PyTorch has a product of its type by oneDNN, and a slower one by default."""
    is_plain = tensor.dtype == torch.float32 and tensor.device.type == "cpu"
    return is_plain and torch.backends.mkldnn.is_available()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, by whatever is fastest for so many rows.

    Shapes: x (rows, in), weight (out, in), bias (out,); returns (rows, out).
    """
    lines = weight.t()
    if len(x) > MOST_ROWS or not can_loop(lines):
        return multiply_by_onednn(x, weight, bias)
    product = x.new_zeros(len(x), len(weight)) if bias is None else bias.repeat(len(x), 1)
    add_products(x.contiguous(), lines, product)
    return product


def multiply_by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x weight^T + bias, by a kernel that PyTorch itself takes only for compiled models.

    Shapes: x (rows, in), weight (out, in), bias (out,); returns (rows, out).
    """
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


MOST_ADAPTER_ROWS = 16
"""Rows of an adapter up to which its products are loops; many more are faster by PyTorch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AdapterRows:
    """What one adapter does in a batch."""

    slot: int
    """Index of its weights."""
    rank: int
    """Rows of its A and columns of its B that count."""
    scaling: float
    """Factor of its product."""
    rows: Tensor | slice
    """Tokens of the batch that it is for, in rising order; a slice where they lie together."""
    few: np.ndarray[Any, np.dtype[np.int64]] | None
    """The same, where they are few enough for loops."""


def group_by_adapter(
    slots: Sequence[int], lengths: Sequence[int], ranks: Sequence[int], scalings: Sequence[float]
) -> list[AdapterRows]:
    """The adapters of a batch, less those of rank 0.

    Shapes: slots and lengths (segments,), in the order of tokens; ranks and scalings (slots,).
    """
    spans: dict[int, list[tuple[int, int]]] = {}
    ends = list(itertools.accumulate(lengths))
    for slot, length, end in zip(slots, lengths, ends, strict=True):
        if length and ranks[slot]:
            spans.setdefault(slot, []).append((end - length, end))
    return [_make_rows(slot, ranks[slot], scalings[slot], of_slot) for slot, of_slot in spans.items()]


def _make_rows(slot: int, rank: int, scaling: float, spans: list[tuple[int, int]]) -> AdapterRows:
    first, last = spans[0][0], spans[-1][1]
    num_rows = sum(end - start for start, end in spans)
    rows: Tensor | slice = slice(first, last)
    few = None
    # Rows are listed only where somebody goes by the list: those of a long prompt lie together.
    if num_rows <= MOST_ADAPTER_ROWS or num_rows < last - first:
        listed = np.array([row for span in spans for row in range(*span)], dtype=np.int64)
        rows = rows if num_rows == last - first else torch.from_numpy(listed)
        few = listed if num_rows <= MOST_ADAPTER_ROWS else None
    return AdapterRows(slot=slot, rank=rank, scaling=scaling, rows=rows, few=few)


def lora_a(x: Tensor, weights: Tensor, groups: Sequence[AdapterRows], num_slices: int) -> Tensor:
    """Each token by its adapter's A and scaling; 0 where it has none.

    Shapes: x (tokens, in), weights (slots, slices * max rank, in); returns (tokens,
    slices * max rank), of which a token's first slices * rank columns are used.
    """
    # Columns beyond an adapter's rank are not read by its B, and rows without an adapter add nothing: both stay 0.
    out = x.new_zeros(len(x), weights.shape[1])
    for group in groups:
        rows, width = group.rows, num_slices * group.rank
        if group.few is not None and can_loop(x, weights):
            given = (x.numpy(), weights.numpy(), group.slot, group.few, width, np.float32(group.scaling))
            operator_kernels.shrink(*given, out.numpy())
            continue
        weight = weights[group.slot, :width].T
        if isinstance(rows, slice):
            out[rows, :width].addmm_(x[rows], weight, beta=0, alpha=group.scaling)
        else:
            out[:, :width].index_copy_(0, rows, (x.index_select(0, rows) @ weight).mul_(group.scaling))
    return out


def lora_b(
    x: Tensor, weights: Tensor, groups: Sequence[AdapterRows], offsets: Sequence[int], base_output: Tensor
) -> Tensor:
    """Add each token's product with its adapter's B to `base_output`, which is returned.

    Shapes: x as `lora_a` returns it, weights (slots, out, max rank), offsets (slices + 1,):
    where each slice's columns of the output begin and end; base_output (tokens, out).
    """
    for group in groups:
        rows, rank = group.rows, group.rank
        if group.few is not None and can_loop(x, weights, base_output):
            columns = np.array(offsets)
            given_few = (x.numpy(), weights.numpy(), group.slot, group.few, rank, columns)
            operator_kernels.expand(*given_few, base_output.numpy())
            continue
        is_together = isinstance(rows, slice)
        given = x[rows] if is_together else x.index_select(0, rows)
        out = base_output[rows] if is_together else base_output.index_select(0, rows)
        for index, (start, end) in enumerate(itertools.pairwise(offsets)):
            part = given[:, index * rank : (index + 1) * rank]
            out[:, start:end].addmm_(part, weights[group.slot, start:end, :rank].T)
        if not is_together:
            base_output.index_copy_(0, rows, out)
    return base_output
