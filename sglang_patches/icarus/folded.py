"""Both rows of a request as heads of one query: a decode kernel reads a KV head once for all queries that share it.

    query heads of a KV head     | own row: g_0 .. g_{G-1} | second row: g_0 .. g_{G-1} |
    as the kernel is told        | one row, 2 G heads per KV head                       |

A request without a second row has zeros there, whose result nobody reads. The backends of GPUs keep what a step needs
in ``forward_metadata``, and buffers of the lengths in which it lies; a pass that extends requests needs two of both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from sglang_patches.icarus.attention import PairedAttention
from sglang_patches.icarus.rows import PairedForwardBatch

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from torch import Tensor


class TwoRowsLayer:
    """An attention layer as it looks with twice its query heads."""

    def __init__(self, layer: RadixAttention) -> None:
        self._layer = layer
        self.tp_q_head_num = 2 * layer.tp_q_head_num

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer, name)


def fold(q: Tensor, layer: RadixAttention, batch: PairedForwardBatch) -> Tensor:
    """Queries of both rows of a decode step as one row of each request.

    Shapes: (own + second rows, heads * size) to (own rows, 2 * heads * size).
    """
    num_own, num_kv_heads = batch.num_own_tokens, layer.tp_k_head_num
    heads = q.reshape(len(q), num_kv_heads, -1, layer.qk_head_dim)
    both = heads.new_zeros(num_own, num_kv_heads, 2, *heads.shape[2:])
    both[:, :, 0] = heads[:num_own]
    both[:, :, 1].index_copy_(0, batch.last_tokens, heads[num_own:])
    return both.view(num_own, -1)


def unfold(output: Tensor, layer: RadixAttention, batch: PairedForwardBatch) -> Tensor:
    """The way back: what each row's heads got."""
    both = output.view(len(output), layer.tp_k_head_num, 2, -1)
    second = both[:, :, 1].index_select(0, batch.last_tokens)
    return torch.cat((both[:, :, 0].flatten(1), second.flatten(1)))


class FoldedAttention(PairedAttention):
    """Stands before a backend of GPUs."""

    forward_metadata: Any
    _metadata_of_second: Any = None

    def init_forward_metadata(self, forward_batch: ForwardBatch) -> None:
        """Plan the step, or the two of a pass that extends requests."""
        if not isinstance(forward_batch, PairedForwardBatch):
            super().init_forward_metadata(forward_batch)
            return
        if forward_batch.forward_mode.is_decode():
            with self.twice_the_heads():
                super().init_forward_metadata(forward_batch.own)
            return
        with self.second_buffers():
            super().init_forward_metadata(forward_batch.second)
        self._metadata_of_second = self.forward_metadata
        super().init_forward_metadata(forward_batch.own)

    def attend_second(self, q: Tensor, layer: RadixAttention, batch: PairedForwardBatch) -> Tensor:
        """The second rows by their own plan."""
        planned = self.forward_metadata
        self.forward_metadata = self._metadata_of_second
        try:
            return super().attend_second(q, layer, batch)
        finally:
            self.forward_metadata = planned

    def attend_pairs(
        self, q: Tensor, k: Tensor, v: Tensor, layer: RadixAttention, batch: PairedForwardBatch, save_kv_cache: bool
    ) -> Tensor:
        """A decode step of twice the heads, in which upstream writes the own rows' KV."""
        both = fold(q, layer, batch)
        output = super().forward_decode(both, k, v, TwoRowsLayer(layer), batch.own, save_kv_cache)
        return unfold(output, layer, batch)

    @contextlib.contextmanager
    def twice_the_heads(self) -> Iterator[None]:
        """While this lasts, a step is planned for twice the query heads."""
        raise NotImplementedError

    @contextlib.contextmanager
    def second_buffers(self) -> Iterator[None]:
        """While this lasts, a plan is written to other buffers than the next one."""
        raise NotImplementedError
