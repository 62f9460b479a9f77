"""The operators of a layer in fewer calls of PyTorch.

Target: ``RMSNorm`` on our platform, and ``RotaryEmbedding.forward_native``
Why: a decode step of a small model on a CPU is mostly the cost of calling operators;
    upstream spends 7 of them on a norm and 20 on the rotation of queries and keys.
How: a compiled loop for each (:mod:`sglang_patches.cpu.operator_kernels`). With more threads than one, a norm of 5
    calls (PyTorch's ``rms_norm`` is 8 inside, and ten times as slow on long prompts), and queries and keys rotated as
    one tensor. Only for float32, where nothing has to be cast; everything else goes upstream. The norm is registered
    for the platform (two models that are not served here have subclasses of it, which keep upstream's). The rotation is
    a method patch: the registry knows a class but not its subclasses, and each model family has a rotary class of its
    own that inherits this method (Llama 3, YaRN, dynamic NTK, ...).
Upstream: sglang/srt/layers/layernorm.py:644 and layers/rotary_embedding/base.py:234 at
    0.5.17.
Remove when: those are built on fused operators.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sglang_patches.cpu.computation import rms_norm, rotate_both
from sglang_patches.declarations import registers_forward, wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
    from torch import Tensor

Rotated = tuple["Tensor", "Tensor"]
"""Queries and keys."""


@registers_forward(
    "layers.layernorm:RMSNorm", "3335b16d634b2fb5", "a small model would spend a seventh of a step on norms"
)
def normalize(
    self: RMSNorm, x: Tensor, residual: Tensor | None = None, post_residual_addition: Tensor | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    """The norm of x, or of its sum with the residual, which is returned beside it."""
    weight = self.weight
    is_plain = x.dtype == weight.dtype == torch.float32 and self.variance_size_override is None
    if not is_plain or self.override_orig_dtype is not None or post_residual_addition is not None:
        normalized: Tensor | tuple[Tensor, Tensor] = self.forward_native(x, residual, post_residual_addition)
        return normalized
    if residual is None:
        return rms_norm(x, weight, self.variance_epsilon)
    total = x + residual
    return rms_norm(total, weight, self.variance_epsilon), total


@wraps_upstream(
    "layers.rotary_embedding.base:RotaryEmbedding.forward_native",
    "d3fe1cdb973c311f",
    "queries and keys would be turned one after the other in 20 calls",
)
def wrap_rotary(original: Callable[..., Rotated]) -> Callable[..., Rotated]:
    def forward_native(
        self: RotaryEmbedding,
        positions: Tensor,
        query: Tensor,
        key: Tensor,
        offsets: Tensor | None = None,
        fused_set_kv_buffer_arg: Any = None,
    ) -> Rotated:
        is_whole = self.is_neox_style and self.rotary_dim == self.head_size and not hasattr(self, "sin_cos_cache")
        is_plain = is_whole and query.dtype == self.cos_sin_cache.dtype == torch.float32
        if not is_plain or offsets is not None or fused_set_kv_buffer_arg is not None:
            return original(self, positions, query, key, offsets, fused_set_kv_buffer_arg)
        positions = positions.flatten()
        heads, key_heads = (tensor.view(len(positions), -1, self.head_size) for tensor in (query, key))
        out_query, out_key = rotate_both(heads, key_heads, positions, self.cos_sin_cache)
        return out_query.reshape(query.shape), out_key.reshape(key.shape)

    return forward_native


RELIED_ON = {
    "layers.utils.multi_platform:MultiPlatformOp.dispatch_forward": (
        "e80cdc370d2a4d93",
        "an operator's class itself is looked up among those of the platform",
    ),
}
