"""The hand-off boundary inside LoRA batches: an extend batch as the LoRA backends shall see it.

A batch becomes one of *segments*: each request is up to two neighbours, its base tokens and its adapter tokens. Every
backend (torch_native, triton, csgmv) only reads lengths and adapter ids from that batch, so one view serves all of
them and no kernel changes. :mod:`sglang_patches.engine.lora_manager` hands the view to them.

For a request whose extend covers positions ``prefix .. prefix+length-1``:

    prefix                  boundary               prefix+length
      |------- base ---------|------- adapter -------|
              b tokens              length-b tokens
    b = clamp(boundary - prefix, 0, length)

A chunk that ends before the boundary is all base, one that begins behind it (a decode step in a mixed batch, a
retracted request's answer) all adapter; only the chunk with x_n has both.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch

SEGMENTS = "prefillshare_segments"
"""Attribute of a batch that holds its view: made once per forward pass, and dropped with the batch."""

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
        # Neighbours, base first: a segment is a run of tokens, and those of a request lie together in the batch.
        for segment_id, length in ((None, num_base), (lora_id, extend - num_base)):
            # An empty one would only count against the limits of CUDA graphs.
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
    # A shallow copy: the tokens and their rows are the batch's own, only what says whose they are is new.
    view = copy.copy(batch)
    view.lora_ids = ids
    view.batch_size = len(ids)
    view.extend_seq_lens_cpu = lens
    view.extend_seq_lens = torch.tensor(lens, dtype=torch.int32).to(batch.extend_seq_lens.device, non_blocking=True)
    view.return_logprob = False
    return view


def second_row_view(batch: ForwardBatch, ids: list[str | None], lora_ids: list[str | None]) -> ForwardBatch:
    """The batch, its rows with the adapters ``ids``, and behind it a row of one token for each of ``lora_ids``."""
    import torch

    num_second = len(lora_ids)
    view = copy.copy(batch)
    view.lora_ids = [*ids, *lora_ids]
    view.batch_size = len(view.lora_ids)
    view.return_logprob = False
    if batch.forward_mode.is_extend():
        view.extend_seq_lens_cpu = [*batch.extend_seq_lens_cpu, *[1] * num_second]
        view.extend_seq_lens = torch.cat((batch.extend_seq_lens, batch.extend_seq_lens.new_ones(num_second)))
        view.extend_num_tokens = batch.extend_num_tokens + num_second
    return view
