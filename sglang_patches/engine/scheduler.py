"""A scheduler that tells how its memory is used, and pauses while it waits for others.

Target: ``sglang.srt.managers.scheduler.Scheduler``
Why: SGLang's gauges are as old as the last logged batch and know no decode module. And its loop asks its queues again
    at once when no batch can run and requests still wait, which takes a whole core: on a machine with few cores that
    is the one that the prefill worker needs to end the wait.
How: the numbers, read at the moment of asking (:mod:`sglang_patches.observed.kv_usage`), stand under ``prefillshare``
    in the reply to a question about the internal state. A round without a batch ends with a short pause
    (:mod:`sglang_patches.prefill.waiting`).
Remove when: upstream's load snapshot tells shared, private and free tokens, and its idle loop waits for events.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from typing import TYPE_CHECKING

from sglang.srt.managers import scheduler as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.observed.call_report import META_KEY
from sglang_patches.observed.kv_usage import kv_usage, waiting
from sglang_patches.prefill.waiting import Wait

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import GetInternalStateReq, GetInternalStateReqOutput


@binds("managers.scheduler:Scheduler")
class Scheduler(upstream.Scheduler):
    """Knows whose requests wait and which rows are shared."""

    @overrides("7d19aa0d964749de", "nobody would know how KV memory is used")
    def get_internal_state(self, recv_req: GetInternalStateReq) -> GetInternalStateReqOutput:
        reply = super().get_internal_state(recv_req)
        reply.internal_state[META_KEY] = {
            "kv": kv_usage(self.tree_cache, self.token_to_kv_pool_allocator, self.ps.tp_size),
            "queued": dict(Counter(req.prefillshare.decode_module or "" for req in waiting(self))),
            "flushes": max(self.tree_cache.num_flushes, 0),
        }
        return reply

    @overrides("59825e5da1a871f4", "waiting workers would take the cores of those they wait for")
    def on_idle(self) -> None:
        super().on_idle()
        self._wait.end_round(self)

    @cached_property
    def _wait(self) -> Wait:
        return Wait()
