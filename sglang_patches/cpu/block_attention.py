"""Attention of a sequence's new tokens as products of oneDNN, block by block of queries.

PyTorch's attention multiplies by the BLAS, which is slow in float32 (:mod:`sglang_patches.cpu.linear`). A block of
queries sees the keys up to its own last token, so what is multiplied for nothing is a triangle per block:

    keys        0 ............ cached ..... begin ..... end
    block's queries: all of these           | triangle |
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sglang_patches.cpu.computation import multiply_by_onednn

MIN_NEW = 8
"""New tokens from which on the products are worth their calls."""
_BLOCK = 128


def attend_in_blocks(query: Tensor, k_cache: Tensor, v_cache: Tensor, slots: Tensor, scale: float | None) -> Tensor:
    """Causal attention of a sequence's last tokens.

    Shapes: query (new, heads, size), caches (pool, KV heads, size), slots (length,), all of float32;
    returns (new, heads, size of values).
    """
    num_new, num_heads, size = query.shape
    keys, values = (cache.index_select(0, slots).transpose(0, 1).contiguous() for cache in (k_cache, v_cache))
    by_head = (query * (size**-0.5 if scale is None else scale)).view(num_new, len(keys), -1, size)
    output = query.new_empty(num_new, len(keys), num_heads // len(keys), values.shape[-1])
    for new, end in _blocks(num_new, len(slots)):
        # Queries of the heads that share a KV head are further queries of it (KV heads, groups * block, size).
        folded = by_head[new].permute(1, 2, 0, 3).flatten(1, 2)
        for head, rows in enumerate(folded):
            attended = _attend(rows, keys[head, :end], values[head, :end], new.stop - new.start)
            output[new, head] = attended.transpose(0, 1)
    return output.flatten(1, 2)


def _blocks(num_new: int, length: int) -> Iterator[tuple[slice, int]]:
    """New tokens of each block, and how many keys the last of them sees."""
    for begin in range(0, num_new, _BLOCK):
        end = min(begin + _BLOCK, num_new)
        yield slice(begin, end), length - num_new + end


def _attend(query: Tensor, keys: Tensor, values: Tensor, num_tokens: int) -> Tensor:
    """Attention of the groups of a KV head from a block of tokens, the last of which sees all keys.

    Shapes: query (groups * tokens, size), keys and values (length, size); returns (groups, tokens, size).
    """
    scores = multiply_by_onednn(query, keys, None)
    hidden = scores.new_full((num_tokens, num_tokens), float("-inf")).triu_(1)
    scores.view(-1, num_tokens, len(keys))[:, :, -num_tokens:].add_(hidden)
    torch.softmax(scores, dim=-1, out=scores)
    return multiply_by_onednn(scores, values.t(), None).view(-1, num_tokens, values.shape[-1])
