"""Where the adapters of a batch's requests begin reaches its LoRA batch.

Target: ``sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new``
Why: the LoRA batch is prepared inside of it, from a batch that no longer has its requests.
How: the boundaries lie on the LoRA manager (:mod:`sglang_patches.engine.lora_manager`) while the original runs, and so
    do the numbers of requests with a second row (:mod:`sglang_patches.icarus.rows`), which the batch then keeps; and
    whether only KV is wanted of it (:mod:`sglang_patches.prefill.kv_only`).
    A method patch: three dozen modules import the class, most of them for a constructor that is not of interest here.
Remove when: upstream accepts per-token or per-segment adapter ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream
from sglang_patches.icarus.modules import paired_modules
from sglang_patches.icarus.requests import PAIRED, paired_requests
from sglang_patches.prefill.kv_only import KV_ONLY, is_kv_only

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner

Make = Callable[..., "ForwardBatch"]


@wraps_upstream(
    "model_executor.forward_batch_info:ForwardBatch.init_new",
    "122dd585a6c00d92",
    "boundaries must reach the LoRA batch",
)
def wrap_init_new(original: Make) -> Make:
    def init_new(
        cls: type[ForwardBatch], batch: ScheduleBatch, model_runner: ModelRunner, **kwargs: Any
    ) -> ForwardBatch:
        made = _make(cls, batch, model_runner, **kwargs)
        if is_kv_only(batch):
            setattr(made, KV_ONLY, True)
            # No token is sampled, whatever its requests ask for later.
            made.is_prefill_only = True
        return made

    def _make(cls: type[ForwardBatch], batch: ScheduleBatch, model_runner: ModelRunner, **kwargs: Any) -> ForwardBatch:
        manager = getattr(model_runner, "lora_manager", None)
        if manager is None:
            return original(cls, batch, model_runner, **kwargs)
        manager.prefill_boundaries = [req.prefillshare.adapter_start for req in batch.reqs]
        manager.paired_requests = paired_requests(batch) if paired_modules else []
        try:
            made = original(cls, batch, model_runner, **kwargs)
            if manager.paired_requests:
                setattr(made, PAIRED, manager.paired_requests)
            return made
        finally:
            # What is prepared next may be a graph capture, which has no requests.
            manager.prefill_boundaries = None
            manager.paired_requests = []

    return init_new
