"""A scheduler that tells how its memory is used, pauses while it waits for others, and sends no unfinished KV.

Target: ``sglang.srt.managers.scheduler.Scheduler``
Why: SGLang's gauges are as old as the last logged batch and know no decode module. And its loop asks its queues again
    at once when no batch can run and requests still wait, which takes a whole core: on a machine with few cores that
    is the one that the prefill worker needs to end the wait. A prefill worker sends the KV of a cached prefix early;
    with overlapping steps, the step before may still be computing these pages. Upstream records an event to wait for,
    and only one of its transports (mori, which is not supported here) looks at it: NIXL and Mooncake read at once, and
    are right only because their own start takes longer. Without a GPU there is no such event, and recording it ends
    the worker.
How: the numbers, read at the moment of asking (:mod:`sglang_patches.observed.kv_usage`), stand under ``prefillshare``
    in the reply to a question about the internal state. A round without a batch ends with a short pause
    (:mod:`sglang_patches.prefill.waiting`). With overlapping steps nothing is sent early: the regular hand-off at the
    end of the prefill covers the whole prompt, and waits for the step.
Remove when: upstream's load snapshot tells shared, private and free tokens, its idle loop waits for
    events, and its transports for the event of a step.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from sglang.srt.managers import scheduler as upstream

from prefillshare.wire.call_report import REPORT_KEY
from sglang_patches.declarations import binds, overrides
from sglang_patches.observed.kv_usage import kv_usage, waiting_requests
from sglang_patches.observed.store_usage import store_usage
from sglang_patches.prefill.waiting import Wait

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetInternalStateReq, GetInternalStateReqOutput
    from sglang.srt.managers.schedule_batch import Req


@binds("managers.scheduler:Scheduler")
class Scheduler(upstream.Scheduler):
    """Knows whose requests wait and which rows are shared."""

    @overrides("7d19aa0d964749de", "nobody would know how KV memory is used")
    def get_internal_state(self, recv_req: GetInternalStateReq) -> GetInternalStateReqOutput:
        reply = super().get_internal_state(recv_req)
        reply.internal_state[REPORT_KEY] = {
            "kv": kv_usage(self.tree_cache, self.token_to_kv_pool_allocator, self.ps.tp_size),
            "queued": dict(Counter(req.prefillshare.decode_module or "" for req in waiting_requests(self))),
            "store": store_usage(self.tree_cache) if self.enable_hierarchical_cache else None,
            "flushes": max(self.tree_cache.num_flushes, 0),
        }
        return reply

    @overrides("59825e5da1a871f4", "waiting workers would take the cores of those they wait for")
    def on_idle(self) -> None:
        super().on_idle()
        self._wait.end_round(self)

    @overrides(
        "ee806f5cfd9054bd",
        "KV could be sent while it is still being computed",
        of="disaggregation.prefill:SchedulerDisaggregationPrefillMixin.maybe_send_cached_prefix_chunk",
    )
    def maybe_send_cached_prefix_chunk(self, req: Req) -> None:
        if not self.enable_overlap:
            super().maybe_send_cached_prefix_chunk(req)

    @overrides("8f40e15d9656c979", "the store would be asked in the wrong namespace, and past the boundary")
    def _prefetch_kvcache(self, req: Req) -> None:
        if self.enable_hicache_storage:
            self.tree_cache.prefetch(req)

    @cached_property
    def _wait(self) -> Wait:
        return Wait()
