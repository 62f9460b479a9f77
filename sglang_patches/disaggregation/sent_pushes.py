"""A prefill worker's side of pushes: they stand behind all calls, and end where a call could miss what they take.

    waiting queue    | call | call | push | push |
    a batch takes    |======|                        a call that is left found no room or no place: all pushes end

The KV of a push is made before it is asked for, so there is hardly anything to compute. Where it has gone since, the
push ends as well: its prompt would be prefilled among the calls, and nobody waits for it. A push that is being sent is
let go on: its rows are read until then, and are the tree's for the most part. Whoever ends here is told as an aborted
call is, and the router ends the decode worker's half.
:mod:`sglang_patches.engine.scheduler` asks in each round.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from sglang_patches.disaggregation.pushes import NO_ROOM, is_push
from sglang_patches.eager.slices import count_slice_tokens

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler import Scheduler


def put_pushes_last(scheduler: Scheduler) -> None:
    """Before a batch is made: move pushes behind all calls, and end those that would have to be prefilled.

    Effects: changes the waiting queue.
    """
    pushes = [req for req in scheduler.waiting_queue if is_push(req)]
    if pushes:
        calls = [req for req in scheduler.waiting_queue if not is_push(req)]
        scheduler.waiting_queue = calls + pushes
        _end([req for req in pushes if not _is_made(scheduler, req)], scheduler)


def give_way(scheduler: Scheduler) -> None:
    """After a batch was made: where a call is left, no push waits beside it.

    Effects: changes the waiting queue.
    """
    pushes = [req for req in scheduler.waiting_queue if is_push(req)]
    if 0 < len(pushes) < len(scheduler.waiting_queue):
        _end(pushes, scheduler)


def _is_made(scheduler: Scheduler, req: Req) -> bool:
    """Whether no more is missing than what a call may have to wait for anyway."""
    from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
    from sglang.srt.mem_cache.radix_cache import RadixKey

    page_size = scheduler.page_size
    key = RadixKey(req.origin_input_ids, req.extra_key).page_aligned(page_size)
    match = scheduler.tree_cache.match_prefix(MatchPrefixParams(key=key))
    num_missing = len(req.origin_input_ids) - len(match.device_indices) - match.host_hit_length
    return num_missing <= count_slice_tokens(page_size, scheduler.chunked_prefill_size)


def _end(pushes: list[Req], scheduler: Scheduler) -> None:
    """End pushes that wait for a batch: they have a place for their end's word, and no rows."""
    from sglang.srt.disaggregation.prefill import maybe_release_metadata_buffer
    from sglang.srt.disaggregation.utils import prepare_abort

    if not pushes:
        return
    ended = set(pushes)
    scheduler.waiting_queue = [req for req in scheduler.waiting_queue if req not in ended]
    for req in pushes:
        # As the failure of a call is concluded, but that would be logged and counted as one.
        req.disagg_kv_sender.abort()
        req.disagg_kv_sender.clear()
        maybe_release_metadata_buffer(req, scheduler.req_to_metadata_buffer_idx_allocator)
        prepare_abort(req, NO_ROOM, status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        if scheduler.enable_hicache_storage:
            scheduler.tree_cache.release_aborted_request(req.rid)
    scheduler.output_streamer.stream_output(pushes, False)
