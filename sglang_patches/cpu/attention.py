"""Attention of PyTorch's operators that computes only what was asked.

Target: the attention backend ``torch_native``, registered again
Why: upstream's computes a whole sequence's attention, whose rows over the cached prefix it then throws away: a call
    that adds 80 tokens to 4,000 pays for 4,080. It gathers KV by advanced indexing, several times as slow as a
    selection, and waits for each length by itself.
How: queries of the new tokens only; KV by ``index_select``; query heads that share a KV head lie side by side as its
    queries, and so do both rows of a request whose module reads base-made KV only. In float32 and with few threads, KV
    is read where it lies, by decode steps (:mod:`sglang_patches.cpu.decode_kernel`) and by new tokens
    (:mod:`sglang_patches.cpu.extend_kernel`), whatever is in one pass; with more threads, many new tokens attend by
    products of oneDNN (:mod:`sglang_patches.cpu.block_attention`). Encoders, cross attention and sliding windows go
    upstream.
Upstream: sglang/srt/layers/attention/torch_native_backend.py:65,176 at 0.5.17.
Remove when: that backend no longer computes rows that it drops.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention import torch_native_backend as upstream
from sglang.srt.mem_cache.memory_pool import KVWriteLoc

from sglang_patches.cpu.block_attention import MIN_NEW, attend_in_blocks
from sglang_patches.cpu.computation import (
    attend_in_place,
    attend_new,
    attend_new_in_place,
    attend_together,
    is_for_onednn,
)
from sglang_patches.cpu.decode_kernel import make_decode_attention
from sglang_patches.cpu.extend_kernel import make_extend_attention
from sglang_patches.cpu.vectors import WIDTH
from sglang_patches.declarations import overrides, registers, subclasses
from sglang_patches.icarus.attention import PairedAttention
from sglang_patches.icarus.modules import paired_modules

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner
    from torch import Tensor

    from sglang_patches.icarus.rows import PairedForwardBatch

MOST_THREADS = 2
"""Threads with which one that reads KV where it lies is not slower than all that read a copy of it."""


@subclasses("layers.attention.torch_native_backend:TorchNativeAttnBackend")
class TorchNativeAttnBackend(upstream.TorchNativeAttnBackend):
    """Attends from new tokens to all before them, sequence by sequence."""

    def write_kv(self, layer: RadixAttention, k: Tensor, v: Tensor, forward_batch: ForwardBatch) -> None:
        """Keep the KV of new tokens, where nothing attends to it in this pass (k, v: new tokens, KV heads, size)."""
        pool = self.token_to_kv_pool
        pool.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc), k, v)
        # What the host tier still loads of this layer is waited for, as attention would: the next pass does not.
        pool.get_key_buffer(layer.layer_id)

    @overrides("5ce429c04fa0f38b", "a few new tokens would pay for the attention of the whole prefix")
    def _run_sdpa_forward_extend(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        extend_prefix_lens: Tensor,
        extend_seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        *,
        causal: bool = False,
        **options: Any,
    ) -> Tensor:
        if not causal or not _is_plain(query, k_cache, encoder_lens, options):
            lengths = (seq_lens, extend_prefix_lens, extend_seq_lens, encoder_lens)
            caches = (k_cache, v_cache, req_to_token, req_pool_indices)
            return super()._run_sdpa_forward_extend(query, output, *caches, *lengths, causal=causal, **options)
        if _has_kernel(query, k_cache, v_cache):
            sequences = (req_to_token, req_pool_indices, seq_lens, extend_seq_lens)
            return attend_new_in_place(query, k_cache, v_cache, *sequences, options.get("scaling"), output)
        rows = zip(req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), strict=True)
        # Queries of all sequences lie one after another; the KV of each lies wherever its row of the pool says.
        start = 0
        for row, length, num_new in rows:
            slots = req_to_token[row, :length]
            new = slice(start, start + num_new)
            attend = attend_in_blocks if num_new >= MIN_NEW and is_for_onednn(query) else attend_new
            output[new] = attend(query[new], k_cache, v_cache, slots, options.get("scaling"))
            start += num_new
        return output

    @overrides("f54327e27c6bd3af", "gathering KV would take longer than attending to it")
    def _run_sdpa_forward_decode(
        self,
        query: Tensor,
        output: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        req_to_token: Tensor,
        req_pool_indices: Tensor,
        seq_lens: Tensor,
        encoder_lens: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        if not _is_plain(query, k_cache, encoder_lens, options):
            caches = (k_cache, v_cache, req_to_token, req_pool_indices)
            return super()._run_sdpa_forward_decode(query, output, *caches, seq_lens, encoder_lens, **options)
        if _has_kernel(query, k_cache, v_cache):
            second = torch.full_like(seq_lens, -1)
            sequences = (req_to_token, req_pool_indices, seq_lens)
            return attend_in_place(query, k_cache, v_cache, *sequences, second, options.get("scaling"), output)
        rows = zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
        for number, (row, length) in enumerate(rows):
            slots = req_to_token[row, :length]
            new = slice(number, number + 1)
            output[new] = attend_new(query[new], k_cache, v_cache, slots, options.get("scaling"))
        return output


class PairedTorchNativeAttnBackend(PairedAttention, TorchNativeAttnBackend):
    """The same where requests have second rows: a request's KV is gathered once for both."""

    def attend_pairs(
        self, q: Tensor, k: Tensor, v: Tensor, layer: RadixAttention, batch: PairedForwardBatch, save_kv_cache: bool
    ) -> Tensor:
        own, pool = batch.own, self.token_to_kv_pool
        if save_kv_cache:
            pool.set_kv_buffer(layer, KVWriteLoc(own.out_cache_loc, self.swa_out_cache_loc), k, v)
        caches = (pool.get_key_buffer(layer.layer_id), pool.get_value_buffer(layer.layer_id))
        sequences = (self.req_to_token_pool.req_to_token, own.req_pool_indices, own.seq_lens)
        query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        output = query.new_empty(*query.shape[:2], layer.v_head_dim)
        if _has_kernel(query, *caches):
            attend_in_place(query, *caches, *sequences, batch.second_rows, layer.scaling, output)
        else:
            _attend_gathered(query, caches, sequences, batch, layer.scaling, output)
        return output.flatten(1)


def _attend_gathered(
    query: Tensor,
    caches: tuple[Tensor, Tensor],
    sequences: tuple[Tensor, Tensor, Tensor],
    batch: PairedForwardBatch,
    scale: float | None,
    output: Tensor,
) -> None:
    req_to_token, req_pool_indices, seq_lens = sequences
    second = batch.second_rows.tolist()
    for number, (row, length) in enumerate(zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)):
        slots = req_to_token[row, :length]
        # A slice with a step is a view of one or two rows, and takes no index tensor.
        step = max(second[number], number + 1) - number
        rows = slice(number, max(second[number], number) + 1, step)
        output[rows] = attend_together(query[rows], *caches, slots, scale)


@registers(
    "layers.attention.attention_registry:ATTENTION_BACKENDS",
    "torch_native",
    by="register_attention_backend",
    fingerprint="611d78b252f0e1e7",
    why="a few new tokens would pay for the attention of the whole prefix",
)
def make_torch_native_backend(runner: ModelRunner) -> TorchNativeAttnBackend:
    """Which modules an engine has is known by now: adapters are loaded before backends are made."""
    backend = PairedTorchNativeAttnBackend if paired_modules else TorchNativeAttnBackend
    if runner.dtype == torch.float32:
        # Compiled before the first call, not by it.
        size = runner.model_config.head_dim
        if size % WIDTH == 0:
            make_decode_attention(size)
            make_extend_attention(size)
    return backend(runner)


def _has_kernel(query: Tensor, k_cache: Tensor, v_cache: Tensor) -> bool:
    """Whether the compiled loops, of one thread, are the faster way, and know these types and sizes of heads."""
    is_known = query.dtype == k_cache.dtype == v_cache.dtype == torch.float32 and k_cache.shape == v_cache.shape
    return is_known and query.shape[-1] % WIDTH == 0 and torch.get_num_threads() <= MOST_THREADS


def _is_plain(query: Tensor, k_cache: Tensor, encoder_lens: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether this is self-attention over the whole sequence, in the dtype of its KV."""
    window = options.get("sliding_window_size")
    is_whole = encoder_lens is None and not options.get("is_cross_attn") and (window is None or window < 0)
    return is_whole and query.dtype == k_cache.dtype
