"""Attention of second rows: they read what the own rows complete, and write nothing.

A mixin for any attention backend. A pass that extends requests attends for its own rows as ever; the second rows are
then a decode step over the same KV, so nothing of what upstream reads from fresh keys and values need know of them.
In a decode step both rows of a request see the same keys; a backend's ``attend_pairs`` reads them once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend

from sglang_patches.icarus.rows import PairedForwardBatch

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor


class PairedAttention(AttentionBackend):
    """Stands before a backend's class, and takes batches with second rows to it in parts that it knows."""

    def forward_extend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """Own rows first: the second ones read the KV of the last token, which is then written."""
        if not isinstance(forward_batch, PairedForwardBatch):
            return super().forward_extend(q, k, v, layer, forward_batch, save_kv_cache, **options)
        num_own = forward_batch.num_own_tokens
        fresh = (k[:num_own], v[:num_own])
        own = super().forward_extend(q[:num_own], *fresh, layer, forward_batch.own, save_kv_cache, **options)
        return torch.cat((own, self.attend_second(q[num_own:], layer, forward_batch)))

    def forward_decode(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: RadixAttention,
        forward_batch: ForwardBatch,
        save_kv_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """Both rows of a request at once."""
        if not isinstance(forward_batch, PairedForwardBatch):
            return super().forward_decode(q, k, v, layer, forward_batch, save_kv_cache, **options)
        num_own = forward_batch.num_own_tokens
        return self.attend_pairs(q, k[:num_own], v[:num_own], layer, forward_batch, save_kv_cache)

    def attend_second(self, q: Tensor, layer: RadixAttention, batch: PairedForwardBatch) -> Tensor:
        """The second rows of a pass that extends requests, whose KV is all written."""
        return super().forward_decode(q, None, None, layer, batch.second, False)

    def attend_pairs(
        self, q: Tensor, k: Tensor, v: Tensor, layer: RadixAttention, batch: PairedForwardBatch, save_kv_cache: bool
    ) -> Tensor:
        """A decode step of all rows, after the KV of the own ones (k, v) was written.

        Shapes: q and the result (own + second rows, heads * size), k and v (own rows, KV heads, size).
        """
        raise NotImplementedError
