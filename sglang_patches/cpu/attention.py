"""Attention of PyTorch's operators that computes only what was asked.

Target: ``TorchNativeAttnBackend._run_sdpa_forward_extend`` and ``_run_sdpa_forward_decode``
Why: the first computes a whole sequence's attention, whose rows over the cached
    prefix it then throws away: a call that adds 80 tokens to 4,000 pays for 4,080.
    Both gather KV by advanced indexing, several times as slow as a selection, and
    wait for each length by itself.
How: queries of the new tokens only; KV by ``index_select``; query heads that share a
    KV head lie side by side as its queries. Encoders, cross attention and sliding
    windows go upstream.
Upstream: sglang/srt/layers/attention/torch_native_backend.py:65,176 at 0.5.17.
Remove when: that backend no longer computes rows that it drops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Run = Callable[..., Any]


def wrap_extend(original: Run) -> Run:
    from sglang_patches.cpu.computation import attend_new

    def _run_sdpa_forward_extend(
        self: Any,
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
            return original(self, query, output, *caches, *lengths, causal=causal, **options)
        rows = zip(req_pool_indices.tolist(), seq_lens.tolist(), extend_seq_lens.tolist(), strict=True)
        start = 0
        for row, length, num_new in rows:
            slots = req_to_token[row, :length]
            new = slice(start, start + num_new)
            output[new] = attend_new(query[new], k_cache, v_cache, slots, options.get("scaling"))
            start += num_new
        return output

    return _run_sdpa_forward_extend


def wrap_decode(original: Run) -> Run:
    from sglang_patches.cpu.computation import attend_new

    def _run_sdpa_forward_decode(
        self: Any,
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
            return original(self, query, output, *caches, seq_lens, encoder_lens, **options)
        rows = zip(req_pool_indices.tolist(), seq_lens.tolist(), strict=True)
        for number, (row, length) in enumerate(rows):
            slots = req_to_token[row, :length]
            new = slice(number, number + 1)
            output[new] = attend_new(query[new], k_cache, v_cache, slots, options.get("scaling"))
        return output

    return _run_sdpa_forward_decode


def _is_plain(query: Tensor, k_cache: Tensor, encoder_lens: Tensor | None, options: dict[str, Any]) -> bool:
    """Whether this is self-attention over the whole sequence, in the dtype of its KV."""
    window = options.get("sliding_window_size")
    is_whole = encoder_lens is None and not options.get("is_cross_attn") and (window is None or window < 0)
    return is_whole and query.dtype == k_cache.dtype
