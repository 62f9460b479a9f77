"""LoRA batches that keep to the hand-off boundary, and adapters that would misread them are refused.

Target: ``sglang.srt.lora.lora_manager.LoRAManager``
Why: SGLang gives a request one adapter for all tokens of a forward pass; here the prompt up to x_{n-1} belongs to the
    base slot and the rest to the adapter. An adapter of the embedding or of the LM head, or one on mixture-of-experts
    layers, reads its batch layout from metadata that is per request, not per segment: it would be applied to the
    wrong tokens without a word. And SGLang ignores what it does not know in an adapter's configuration and directory.
How: an extend batch is shown to the LoRA backend as a batch of segments (:mod:`sglang_patches.prefill.segments`), in
    which the base slot is always resident and counted. ``patches/forward_batch`` tells the boundaries. Adapters are
    looked at before upstream looks at their shape (:mod:`sglang_patches.checks.adapters`).
Remove when: upstream accepts per-token or per-segment adapter ids, and the three kinds of adapter are verified
    against the reference computation.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sglang.srt.lora import lora_manager as upstream

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import read_adapter
from prefillshare.modules.kv_rule import check_no_kv_matrices
from sglang_patches.checks.adapters import VERSION_MARK, check_adapter, check_late_adapter
from sglang_patches.declarations import binds, overrides
from sglang_patches.icarus.modules import paired_modules, reads_base_kv_only
from sglang_patches.icarus.requests import rows_of_decode
from sglang_patches.prefill.segments import SEGMENTS, LoraIds, second_row_view, segment_view

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sglang.srt.lora.lora_config import LoRAConfig
    from sglang.srt.lora.lora_registry import LoRARef
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch


@binds(
    "lora.lora_manager:LoRAManager",
    at=("model_executor.model_runner", "lora.lora_overlap_loader"),
)
class LoRAManager(upstream.LoRAManager):
    """Runs each request's prompt on the base slot and the rest on its adapter."""

    prefill_boundaries: list[int] | None = None
    """Of the requests of the batch that is being prepared, in its order; None in a graph capture or warm-up."""
    paired_requests: Sequence[int] = ()
    """Numbers of those with a second row."""

    @overrides("6717dd923e136d9a", "prompts would be prefilled with the adapter")
    def prepare_lora_batch(self, forward_batch: ForwardBatch) -> None:
        boundaries = self.prefill_boundaries
        # Graph capture and warm-up come without requests behind the batch.
        if boundaries is not None:
            self._check_residency({None, *forward_batch.lora_ids})
            view = self._view(forward_batch, boundaries)
            if view is not forward_batch:
                setattr(forward_batch, SEGMENTS, view)
            forward_batch = view
        super().prepare_lora_batch(forward_batch)

    def _view(self, batch: ForwardBatch, boundaries: list[int]) -> ForwardBatch:
        paired, is_extend = self.paired_requests, batch.forward_mode.is_extend()
        view = segment_view(batch, boundaries) if is_extend else batch
        if not paired:
            return view
        ids = view.lora_ids if is_extend else rows_of_decode(batch.lora_ids, paired)
        return second_row_view(view, ids, [batch.lora_ids[number] for number in paired])

    def _check_residency(self, lora_ids: LoraIds) -> None:
        # Upstream skips a missing adapter and runs slot 0, which may hold another one.
        missing = lora_ids - set(self.memory_pool.uid_to_buffer_id)
        if missing:
            raise RuntimeError(f"LoRA slots {missing} are not resident in this batch")

    @overrides("53b8296cc902be5b", "graph limits count segments, not requests")
    def can_use_prefill_cuda_graph(self, forward_batch: ForwardBatch) -> bool:
        return super().can_use_prefill_cuda_graph(getattr(forward_batch, SEGMENTS, forward_batch))

    @overrides("09eb2ea8d9642035", "the base slot must be counted in every batch")
    def validate_lora_batch(self, lora_ids: LoraIds) -> bool:
        return super().validate_lora_batch(lora_ids | {None})

    @overrides("0fd575f8d18c6349", "the base slot must be resident in every batch")
    def fetch_new_loras(self, new_loras: LoraIds, running_loras: LoraIds | None = None) -> None:
        super().fetch_new_loras(new_loras | {None}, running_loras or set())

    @overrides("7651c86200f71c14", "embedding and LM-head adapters would misread segments")
    def validate_new_adapter(self, lora_config: LoRAConfig, lora_ref: LoRARef) -> None:
        name = lora_ref.lora_name.partition(VERSION_MARK)[0]
        check_adapter(lora_config.target_modules, lora_config.hf_config, name)
        # Those of the start come before the memory pool, and ``launch`` has checked them.
        if getattr(self, "memory_pool", None) is not None:
            check_late_adapter(lora_config.path, name)
        super().validate_new_adapter(lora_config, lora_ref)
        if reads_base_kv_only(lora_config.path):
            check_no_kv_matrices(read_adapter(Path(lora_config.path), name), name)
            self._check_can_pair(name)
            paired_modules.add(lora_ref.lora_id)

    def _check_can_pair(self, name: str) -> None:
        # Backends are made for it when the engine starts, after its adapters were loaded.
        if getattr(self, "memory_pool", None) is not None and not paired_modules:
            raise ModuleError(
                f'adapter {name} has kv_rule = "all-base" in its manifest, and this engine was started without such a '
                "module: name one under [[decode]] of the deployment file and start it again"
            )

    @overrides("eaf9acaa3125d660", "MoE adapters would misread segments")
    def init_lora_modules(self) -> None:
        super().init_lora_modules()
        if self.lora_backend.is_moe_lora:
            raise RuntimeError(
                "adapters of mixture-of-experts layers are not supported by shared "
                "prefill yet: leave the experts out of --lora-target-modules"
            )


RELIED_ON = {
    "lora.backend.torch_backend:TorchNativeLoRABackend.prepare_lora_batch": (
        "2a7976f8c6ee26fd",
        "reads adapters per row of the batch view",
    ),
    "lora.backend.triton_backend:TritonLoRABackend.prepare_lora_batch": (
        "5be7663f39768b85",
        "reads adapters per row of the batch view",
    ),
    "lora.backend.chunked_backend:ChunkedSgmvLoRABackend.prepare_lora_batch": (
        "20ab3900625b1c35",
        "reads adapters per row of the batch view",
    ),
    "lora.utils:generate_sequence_lengths": ("661c7622f7f9bb4a", "reads adapters per row of the batch view"),
    "lora.utils:get_lm_head_pruned_lens": ("2211bd441df42cf7", "reads adapters per row of the batch view"),
}
