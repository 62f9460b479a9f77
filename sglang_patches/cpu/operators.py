"""The operators of a layer in fewer calls of PyTorch.

Target: ``RMSNorm.forward_native`` and ``RotaryEmbedding.forward_native``
Why: a decode step of a small model on a CPU is mostly the cost of calling operators;
    upstream spends 7 of them on a norm and 20 on the rotation of queries and keys.
How: a norm of 5 calls (PyTorch's ``rms_norm`` is 8 inside, and ten times as slow on
    long prompts); queries and keys rotated as one tensor. Only for float32, where
    nothing has to be cast; everything else goes upstream.
Upstream: sglang/srt/layers/layernorm.py:644 and layers/rotary_embedding/base.py:234 at
    0.5.17.
Remove when: those are built on fused operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

Forward = Callable[..., Any]


def wrap_rms_norm(original: Forward) -> Forward:
    import torch

    from sglang_patches.cpu.computation import rms_norm

    def forward_native(
        self: Any, x: Tensor, residual: Tensor | None = None, post_residual_addition: Tensor | None = None
    ) -> Any:
        weight = self.weight
        is_plain = x.dtype == weight.dtype == torch.float32 and self.variance_size_override is None
        if not is_plain or self.override_orig_dtype is not None or post_residual_addition is not None:
            return original(self, x, residual, post_residual_addition)
        if residual is None:
            return rms_norm(x, weight, self.variance_epsilon)
        total = x + residual
        return rms_norm(total, weight, self.variance_epsilon), total

    return forward_native


def wrap_rotary(original: Forward) -> Forward:
    import torch

    from sglang_patches.cpu.computation import rotate

    def forward_native(
        self: Any,
        positions: Tensor,
        query: Tensor,
        key: Tensor,
        offsets: Tensor | None = None,
        fused_set_kv_buffer_arg: Any = None,
    ) -> tuple[Tensor, Tensor]:
        is_whole = self.is_neox_style and self.rotary_dim == self.head_size and not hasattr(self, "sin_cos_cache")
        is_plain = is_whole and query.dtype == self.cos_sin_cache.dtype == torch.float32
        if not is_plain or offsets is not None or fused_set_kv_buffer_arg is not None:
            rotated: tuple[Tensor, Tensor] = original(self, positions, query, key, offsets, fused_set_kv_buffer_arg)
            return rotated
        positions = positions.flatten()
        heads = [one.view(len(positions), -1, self.head_size) for one in (query, key)]
        rows = self.cos_sin_cache.index_select(0, positions)
        out_query, out_key = rotate(torch.cat(heads, dim=1), rows).split([one.shape[1] for one in heads], dim=1)
        return out_query.reshape(query.shape), out_key.reshape(key.shape)

    return forward_native
