"""The hand-off boundary inside LoRA batches.

Target: ``sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new`` and
    five methods of ``sglang.srt.lora.lora_manager.LoRAManager``.
Why: SGLang gives a request one adapter for all tokens of a forward pass; here the
    prompt up to x_{n-1} belongs to the base slot and the rest to the adapter.
How: an extend batch is shown to the LoRA backend as a batch of *segments*: each
    request becomes up to two neighbours, its base tokens and its adapter tokens.
    Every backend (torch_native, triton, csgmv) only reads lengths and adapter ids
    from that batch, so one view serves all of them and no kernel changes.
Upstream: sglang/srt/lora/lora_manager.py:169,361,392,428 and
    sglang/srt/model_executor/forward_batch_info.py:953 at 0.5.17.
Remove when: upstream accepts per-token or per-segment adapter ids.

For a request whose extend covers positions ``prefix .. prefix+length-1``:

    prefix                  boundary               prefix+length
      |------- base ---------|------- adapter -------|
              b tokens              length-b tokens
    b = clamp(boundary - prefix, 0, length)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang.srt.lora.lora_manager import LoRAManager
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

BOUNDARIES = "prefillshare_boundaries"
SEGMENTS = "prefillshare_segments"

LoraIds = set[str | None]


def split_segments(
    lora_ids: list[str | None],
    prefix_lens: list[int],
    extend_lens: list[int],
    boundaries: list[int],
) -> tuple[list[str | None], list[int]]:
    """Adapter id and length of each segment, in token order, none empty.

    Shapes: all inputs (num_reqs,); outputs (num_segments,) with
    ``num_reqs <= num_segments <= 2 * num_reqs`` and equal sums of lengths.
    """
    ids: list[str | None] = []
    lens: list[int] = []
    for lora_id, prefix, extend, boundary in zip(lora_ids, prefix_lens, extend_lens, boundaries, strict=True):
        num_base = min(max(boundary - prefix, 0), extend)
        for segment_id, length in ((None, num_base), (lora_id, extend - num_base)):
            if length:
                ids.append(segment_id)
                lens.append(length)
    return ids, lens


def segment_view(batch: ForwardBatch, boundaries: list[int]) -> ForwardBatch:
    """The batch as LoRA backends shall see it: one row per segment.

    ``return_logprob`` is off in the view: the backends read it only to lay out
    adapters of the LM head, and those are refused when the server starts.
    """
    import torch

    ids, lens = split_segments(
        batch.lora_ids,
        batch.extend_prefix_lens_cpu,
        batch.extend_seq_lens_cpu,
        boundaries,
    )
    view = copy.copy(batch)
    view.lora_ids = ids
    view.batch_size = len(ids)
    view.extend_seq_lens_cpu = lens
    view.extend_seq_lens = torch.tensor(lens, dtype=torch.int32).to(batch.extend_seq_lens.device, non_blocking=True)
    view.return_logprob = False
    return view


def _check_residency(manager: LoRAManager, lora_ids: LoraIds) -> None:
    # Upstream skips a missing adapter and runs slot 0, which may hold another one.
    missing = lora_ids - set(manager.memory_pool.uid_to_buffer_id)
    if missing:
        raise RuntimeError(f"LoRA slots {missing} are not resident in this batch")


def wrap_init_new(original: Callable[..., Any]) -> Callable[..., Any]:
    def init_new(cls: type, batch: Any, model_runner: Any, **kwargs: Any) -> Any:
        # prepare_lora_batch runs inside the original, on a batch without requests.
        manager = getattr(model_runner, "lora_manager", None)
        if manager is None:
            return original(cls, batch, model_runner, **kwargs)
        setattr(manager, BOUNDARIES, [req.prefill_boundary for req in batch.reqs])
        try:
            return original(cls, batch, model_runner, **kwargs)
        finally:
            setattr(manager, BOUNDARIES, None)

    return init_new


def wrap_prepare_lora_batch(original: Callable[..., None]) -> Callable[..., None]:
    def prepare_lora_batch(self: LoRAManager, forward_batch: ForwardBatch) -> None:
        boundaries = getattr(self, BOUNDARIES, None)
        # Graph capture and warm-up come without requests behind the batch.
        if boundaries is not None:
            _check_residency(self, {None, *forward_batch.lora_ids})
            if forward_batch.forward_mode.is_extend():
                view = segment_view(forward_batch, boundaries)
                setattr(forward_batch, SEGMENTS, view)
                forward_batch = view
        original(self, forward_batch)

    return prepare_lora_batch


def wrap_can_use_prefill_graph(original: Callable[..., bool]) -> Callable[..., bool]:
    def can_use_prefill_cuda_graph(self: Any, forward_batch: ForwardBatch) -> bool:
        return original(self, getattr(forward_batch, SEGMENTS, forward_batch))

    return can_use_prefill_cuda_graph


def wrap_validate_lora_batch(original: Callable[..., bool]) -> Callable[..., bool]:
    def validate_lora_batch(self: Any, lora_ids: LoraIds) -> bool:
        return original(self, lora_ids | {None})

    return validate_lora_batch


def wrap_fetch_new_loras(original: Callable[..., None]) -> Callable[..., None]:
    def fetch_new_loras(self: Any, new_loras: LoraIds, running_loras: LoraIds | None = None) -> None:
        original(self, new_loras | {None}, running_loras or set())

    return fetch_new_loras
