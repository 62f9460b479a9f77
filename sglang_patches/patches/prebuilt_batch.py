"""A request whose KV has arrived enters the decode batch one position early: with x_n still to be computed.

Target: ``sglang.srt.disaggregation.decode_schedule_batch_mixin.ScheduleBatchDisaggregationDecodeMixin``,
    ``prepare_for_prebuilt`` and ``process_prebuilt``
Why: upstream starts decoding from y_1, sampled by the prefill worker over its own KV of x_n. Here the decode module
    computes x_n with its own weights and samples y_1 (I3).
How: the transfer brings rows 0 .. n-1; row n-1 is given back, and n-1 positions are committed, so the first decode step
    computes x_n like any later token. Sampling, grammar, logprobs, stop rules, streaming and usage then take their
    normal path. The token that is relayed to that step is x_n, or a resumed request's last output.
    Method patches: the mixin is a base of ``ScheduleBatch``, which three dozen modules import.
Upstream: sglang/srt/disaggregation/decode_schedule_batch_mixin.py:25 and :112 at 0.5.17.
Remove when: upstream can hand over a request without a first token.

    row index    0 ............ n-2 | n-1
    transferred  prefill module's KV | prefill module's KV of x_n, never read
    first step                       | decode module's KV of x_n  -> y_1
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.hand_off import is_fresh

if TYPE_CHECKING:
    from sglang.srt.managers.overlap_utils import FutureMap
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
    from sglang.srt.server_args import ServerArgs


@wraps_upstream(
    "disaggregation.decode_schedule_batch_mixin:ScheduleBatchDisaggregationDecodeMixin.prepare_for_prebuilt",
    "059484e67d8f1b2e",
    "x_n would stay computed by the prefill module",
)
def wrap_prepare_for_prebuilt(original: Callable[[ScheduleBatch], None]) -> Callable[[ScheduleBatch], None]:
    def prepare_for_prebuilt(self: ScheduleBatch) -> None:
        import torch

        # Upstream writes rows 0 .. n-1 and asserts their number; what must be one less is corrected after it.
        original(self)
        num_held_back = [int(is_fresh(req)) for req in self.reqs]
        for req in self.reqs:
            if is_fresh(req):
                _hold_back_last_token(self, req)
        held_back = torch.tensor(num_held_back, dtype=torch.int64)
        self.seq_lens_cpu = self.seq_lens_cpu - held_back
        self.seq_lens = self.seq_lens - held_back.to(self.device)
        self.orig_seq_lens = self.orig_seq_lens - held_back.to(self.device, torch.int32)
        self.seq_lens_sum = int(self.seq_lens_cpu.sum())

    return prepare_for_prebuilt


def _hold_back_last_token(batch: ScheduleBatch, req: Req) -> None:
    """Commit n-1 positions; give the slot of x_n back when decoding will allocate it anew.

    Decoding opens a page for position n-1 if that is the first of its page; otherwise it goes on in the page of
    position n-2, which is where the slot of x_n already lies.
    """
    last = len(req.origin_input_ids) - 1
    allocator = batch.token_to_kv_pool_allocator
    if last % allocator.page_size == 0:
        row = batch.req_to_token_pool.req_to_token[req.req_pool_idx]
        allocator.free_segment(row[last : last + 1].long(), start_pos=last)
    # Committed is what the first step attends to, allocated where decoding takes its next row: both end before x_n.
    req.kv_committed_len = last
    req.kv.kv_allocated_len = last
    req.set_extend_range(len(req.prefix_indices), last)


@wraps_upstream(
    "disaggregation.decode_schedule_batch_mixin:ScheduleBatchDisaggregationDecodeMixin.process_prebuilt",
    "3c9b54ab0de0a75f",
    "the first step would not compute x_n",
)
def wrap_process_prebuilt(original: Callable[..., None]) -> Callable[..., None]:
    def process_prebuilt(self: ScheduleBatch, server_args: ServerArgs, future_map: FutureMap) -> None:
        import torch
        from sglang.srt.managers.overlap_utils import RelayPayload
        from sglang.srt.mem_cache.common import maybe_cache_unfinished_req

        # Not to the original: it would relay y_1, which does not exist, and let the grammar accept it. The tree takes
        # at most the n-1 base-made rows (engine/radix_cache.py).
        for req in self.reqs:
            maybe_cache_unfinished_req(req, self.tree_cache)
        inputs = [req.origin_input_ids[-1] if is_fresh(req) else req.output_ids[-1] for req in self.reqs]
        tokens = torch.tensor(inputs, dtype=torch.int64, device=self.device)
        future_map.stash(self.req_pool_indices, RelayPayload(bonus_tokens=tokens))
        # With overlapping steps, the input of a step is read from what the step before has stashed, not from here.
        self.input_ids = None

    return process_prebuilt
