"""Adapters of some of q, k, v, or of up alone, are completed when they are loaded, and all are read whole.

Target: ``sglang.srt.lora.lora.LoRAAdapter``
Why: its loader fills in a missing key or up projection, and ends with a KeyError or "Cannot find target module name" on
    any other gap: an adapter of ``q_proj, o_proj`` or ``up_proj, down_proj``, which PEFT trains and loads, does not
    start. And the weights that it keeps are views into the adapter's file, which people write new versions over.
How: weights are copied when they are read. Before upstream joins the projections of a layer, every missing partner is
    added as zeros (:mod:`sglang_patches.prefill.partial_targets`). Only in models that keep the partners in one matrix.
Remove when: the loader fills all gaps and keeps no views.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from sglang.srt.lora import lora as upstream
from sglang.srt.lora.utils import get_hidden_dim

from sglang_patches.declarations import binds, overrides
from sglang_patches.prefill.partial_targets import complete, stacks_of

if TYPE_CHECKING:
    import torch


@binds("lora.lora:LoRAAdapter", at=("lora.lora_manager", "lora.mem_pool"))
class LoRAAdapter(upstream.LoRAAdapter):
    """Has every partner of a projection that the engine joins with others."""

    @overrides("ebd2aaf54484b2c7", "a file that is written over would change its adapter, or end the engine")
    def _process_weight(self, name: str, loaded_weight: torch.Tensor) -> None:
        # What comes is a view into the mapped file: written over, it is others' weights; cut, reading it is SIGBUS.
        super()._process_weight(name, loaded_weight.clone())

    @overrides("64894a268d5faa6e", "adapters of some of q, k, v or of up alone would not start")
    def _normalize_weights(self) -> None:
        stacks = stacks_of(self.base_model)
        for number, layer in enumerate(self.layers):
            complete(layer.weights, stacks, partial(self._stack_size, number))
        super()._normalize_weights()

    def _stack_size(self, layer: int) -> int:
        """Rows of query, key and value together."""
        _, size = get_hidden_dim("qkv_proj", self.base_hf_config, self.base_model, layer)
        return int(size)


_STACKING = "which projections are one matrix, in which order, and how large"

RELIED_ON = {
    "lora.lora:LoRAAdapter.normalize_qkv_proj": (
        "f17d8160813b6257",
        _STACKING,
    ),
    "lora.lora:LoRAAdapter.normalize_gate_up_proj": (
        "cb09dce7c6942d69",
        _STACKING,
    ),
    "lora.utils:get_hidden_dim": (
        "d07d7bb136bff49e",
        _STACKING,
    ),
}
