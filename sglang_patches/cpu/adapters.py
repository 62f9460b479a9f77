"""LoRA once per adapter of a batch, not once per segment.

Target: the LoRA backend ``torch_native``, registered again
Why: upstream loops over the segments of a batch with several small operators for
    each. Many running requests whose adapters take turns, and prompts whose last
    token alone has one, are many segments: a quarter of the time of a small model.
How: the rows of one adapter are gathered, multiplied once and put back; rows that
    lie together are not moved. Embeddings and CUDA graphs go upstream.
Upstream: sglang/srt/lora/backend/torch_backend.py at 0.5.17, torch_ops/__init__.py:44,72.
Remove when: that backend groups segments by adapter, as ``csgmv`` does on GPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.lora import torch_ops
from sglang.srt.lora.backend import torch_backend as upstream

from sglang_patches.cpu.computation import AdapterRows, group_by_adapter, lora_a, lora_b
from sglang_patches.declarations import overrides, registers, subclasses

if TYPE_CHECKING:
    from sglang.srt.lora.backend.torch_backend import TorchNativeLoRABatchInfo
    from torch import Tensor

_EACH = "every segment would pay for its own small operators"


@subclasses("lora.backend.torch_backend:TorchNativeLoRABackend")
class TorchNativeLoRABackend(upstream.TorchNativeLoRABackend):
    """Multiplies by each adapter once."""

    _grouped: tuple[TorchNativeLoRABatchInfo, list[AdapterRows]] | None = None
    """A batch and its adapters; all layers of a step ask for the same."""

    @overrides("c609fbb0c1ef3581", _EACH)
    def run_lora_a_sgemm(self, x: Tensor, weights: Tensor, stack_num: int = 1, *args: Any, **kwargs: Any) -> Tensor:
        return self._shrink(x, weights, stack_num)

    @overrides("3f6eec2fff248690", _EACH)
    def run_lora_b_sgemm(
        self,
        x: Tensor,
        weights: Tensor,
        output_offset_cpu: Tensor,
        base_output: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        return self._expand(x, weights, output_offset_cpu, base_output)

    @overrides("4707de767743883e", _EACH)
    def run_qkv_lora(
        self,
        x: Tensor,
        qkv_lora_a: Tensor,
        qkv_lora_b: Tensor,
        output_offset: Tensor,
        output_offset_cpu: Tensor,
        max_qkv_out_dim: int,
        base_output: Tensor | None = None,
        n_slices: int = 3,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        return self._expand(self._shrink(x, qkv_lora_a, n_slices), qkv_lora_b, output_offset_cpu, base_output)

    @overrides("4af3a38c314d0e74", _EACH)
    def run_gate_up_lora(
        self,
        x: Tensor,
        gate_up_lora_a: Tensor,
        gate_up_lora_b: Tensor,
        output_offset_cpu: Tensor,
        base_output: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        shrunk = self._shrink(x, gate_up_lora_a, len(output_offset_cpu) - 1)
        return self._expand(shrunk, gate_up_lora_b, output_offset_cpu, base_output)

    def _shrink(self, x: Tensor, weights: Tensor, num_slices: int) -> Tensor:
        """The product with each token's A."""
        info = self.batch_info
        if info.use_cuda_graph or not weights.numel():
            return torch_ops.sgemm_lora_a_fwd(x, weights, info, num_slices)
        return lora_a(x, weights, self._groups(info), num_slices)

    def _expand(self, x: Tensor, weights: Tensor, slice_offsets: Tensor, base_output: Tensor | None) -> Tensor:
        """The product with each token's B, added to ``base_output``."""
        info = self.batch_info
        if info.use_cuda_graph or not weights.numel():
            return torch_ops.sgemm_lora_b_fwd(x, weights, info, slice_offsets, base_output)
        offsets = slice_offsets.tolist()
        if base_output is None:
            base_output = x.new_zeros(len(x), offsets[-1])
        return lora_b(x, weights, self._groups(info), offsets, base_output)

    def _groups(self, info: TorchNativeLoRABatchInfo) -> list[AdapterRows]:
        # Upstream makes a new one for each batch and keeps none: the same object is the same batch.
        if self._grouped is None or self._grouped[0] is not info:
            groups = group_by_adapter(
                info.weight_indices_cpu.tolist(),
                info.seg_lens_cpu.tolist(),
                info.lora_ranks_cpu.tolist(),
                info.scalings_cpu.tolist(),
            )
            self._grouped = (info, groups)
        return self._grouped[1]


@registers(
    "lora.backend.lora_registry:LORA_SUPPORTED_BACKENDS",
    "torch_native",
    by="register_lora_backend",
    fingerprint="b64b53842fa70dc7",
    why=_EACH,
)
def create_torch_native_backend() -> type[TorchNativeLoRABackend]:
    """The class; SGLang calls this to find it."""
    return TorchNativeLoRABackend


_PRODUCT = "what the products per adapter do in its place"

RELIED_ON = {
    "lora.torch_ops:sgemm_lora_a_fwd": ("52d135a936868b55", _PRODUCT),
    "lora.torch_ops:sgemm_lora_b_fwd": ("0ae2f27aa607e495", _PRODUCT),
    "mem_cache.allocator.paged:PagedTokenToKVPoolAllocator": (
        "a1cd04faca6eb91e",
        "the page allocator without Triton (cpu/paged_allocator.py) extends it",
    ),
}
