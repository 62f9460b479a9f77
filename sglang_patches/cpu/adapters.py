"""LoRA once per adapter of a batch, not once per segment.

Target: ``sgemm_lora_a_fwd`` and ``sgemm_lora_b_fwd`` as ``lora.backend.torch_backend``
    sees them.
Why: upstream loops over the segments of a batch with several small operators for
    each. Many running requests whose adapters take turns, and prompts whose last
    token alone has one, are many segments: a quarter of the time of a small model.
How: the rows of one adapter are gathered, multiplied once and put back; rows that
    lie together are not moved.
Upstream: sglang/srt/lora/torch_ops/__init__.py:44,72 at 0.5.17.
Remove when: that backend groups segments by adapter, as ``csgmv`` does on GPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from sglang_patches.cpu.computation import AdapterRows

GROUPS = "prefillshare_groups"

Product = Callable[..., Any]


def _groups(batch_info: Any) -> list[AdapterRows]:
    from sglang_patches.cpu.computation import group_by_adapter

    groups: list[AdapterRows] | None = getattr(batch_info, GROUPS, None)
    if groups is None:
        groups = group_by_adapter(
            batch_info.weight_indices_cpu.tolist(),
            batch_info.seg_lens_cpu.tolist(),
            batch_info.lora_ranks_cpu.tolist(),
            batch_info.scalings_cpu.tolist(),
        )
        setattr(batch_info, GROUPS, groups)
    return groups


def wrap_lora_a(original: Product) -> Product:
    from sglang_patches.cpu.computation import lora_a

    def sgemm_lora_a_fwd(inputs: Tensor, weights: Tensor, batch_info: Any, num_slices: int = 1) -> Any:
        if batch_info.use_cuda_graph or not weights.numel():
            return original(inputs, weights, batch_info, num_slices)
        return lora_a(inputs, weights, _groups(batch_info), num_slices)

    return sgemm_lora_a_fwd


def wrap_lora_b(original: Product) -> Product:
    from sglang_patches.cpu.computation import lora_b

    def sgemm_lora_b_fwd(
        inputs: Tensor, weights: Tensor, batch_info: Any, slice_offsets: Tensor, base_output: Tensor | None = None
    ) -> Any:
        if batch_info.use_cuda_graph or not weights.numel():
            return original(inputs, weights, batch_info, slice_offsets, base_output)
        offsets = slice_offsets.tolist()
        if base_output is None:
            base_output = inputs.new_zeros(len(inputs), offsets[-1])
        return lora_b(inputs, weights, _groups(batch_info), offsets, base_output)

    return sgemm_lora_b_fwd
