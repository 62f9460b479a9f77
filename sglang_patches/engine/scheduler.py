"""A scheduler that tells how its memory is used, computes ahead, pauses for others, and sends no unfinished KV.

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
    end of the prefill covers the whole prompt, and waits for the step. Jobs (:mod:`sglang_patches.eager.prefill`) are
    taken out of the calls that come, and get a batch where no call wants one. Such a batch never joins the requests
    that decode, is handed to nobody, and is out of the way before a flush looks whether anything runs. Without a GPU,
    the result of a pass that extends requests is processed before the next pass, as upstream does between two such.
    Where steps overlap, penalties count a step's input as it is launched (:mod:`sglang_patches.patches.penalties`).
    A call that is refused is answered before it is queued: a prompt that the KV cache has no room for.
Remove when: upstream's load snapshot tells shared, private and free tokens, its idle loop waits for
    events, and its transports for the event of a step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from sglang.srt.managers import scheduler as upstream

from prefillshare.observe.document import EagerState
from prefillshare.wire.call_report import REPORT_KEY
from sglang_patches.checks.reserved_ids import is_call_rid
from sglang_patches.checks.secrets import hide_secrets
from sglang_patches.checks.whole_ids import longer_ids_hidden
from sglang_patches.choosing.states import keep_states
from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation.role import is_decode_worker, is_prefill_worker
from sglang_patches.disaggregation.sent_pushes import give_way, put_pushes_last
from sglang_patches.eager.prefill import EVERY_JOB, EagerPrefill, is_decoding, is_eager_batch
from sglang_patches.eager.switch import QUIET_RID, is_eager_rid, read_min_tokens
from sglang_patches.observed.kv_usage import kv_usage, waiting_requests
from sglang_patches.observed.store_usage import store_usage
from sglang_patches.patches.penalties import count_inputs
from sglang_patches.prefill.waiting import Wait

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import (
        AbortReq,
        GetInternalStateReq,
        GetInternalStateReqOutput,
        TokenizedGenerateReqInput,
    )
    from sglang.srt.managers.schedule_batch import NextBatchPlan, Req, ScheduleBatch
    from sglang.srt.managers.utils import GenerationBatchResult


@binds("managers.scheduler:Scheduler")
class Scheduler(upstream.Scheduler):
    """Knows whose requests wait and which rows are shared."""

    @overrides("7d19aa0d964749de", "nobody would know how KV memory is used")
    def get_internal_state(self, recv_req: GetInternalStateReq) -> GetInternalStateReqOutput:
        reply = super().get_internal_state(recv_req)
        reply.internal_state = hide_secrets(reply.internal_state)
        reply.internal_state[REPORT_KEY] = {
            "push": self.disagg_decode_prealloc_queue.count_pushes() if is_decode_worker() else None,
            "kv": kv_usage(self.tree_cache, self.token_to_kv_pool_allocator, self.ps.tp_size),
            "held": self.tree_cache.holdings.as_dict(),
            "queued": dict(Counter(req.prefillshare.decode_module or "" for req in waiting_requests(self))),
            "store": store_usage(self.tree_cache),
            "flushes": max(self.tree_cache.num_flushes, 0),
            "eager": self._count_eager(),
        }
        return reply

    @overrides("59825e5da1a871f4", "waiting workers would take the cores of those they wait for")
    def on_idle(self) -> None:
        if self._eager is not None and self._eager.is_loading:
            # For nothing else than the end of a load, which wakes nobody.
            self.maybe_send_health_check_signal()
            self._wait.pause()
            return
        super().on_idle()
        self._wait.end_round(self)

    @overrides(
        "ee806f5cfd9054bd",
        "KV could be sent while it is still being computed, and a job's to nobody",
        of="disaggregation.prefill:SchedulerDisaggregationPrefillMixin.maybe_send_cached_prefix_chunk",
    )
    def maybe_send_cached_prefix_chunk(self, req: Req) -> None:
        if not self.enable_overlap and not req.prefillshare.is_eager:
            super().maybe_send_cached_prefix_chunk(req)

    @overrides("f3dbe4b52757dbd2", "penalties would know each token one step late where steps overlap")
    @contextmanager
    def _forward_isolation(self, batch: ScheduleBatch, *, overlap: bool) -> Iterator[None]:
        has_counted = overlap and count_inputs(batch)
        with super()._forward_isolation(batch, overlap=overlap):
            if has_counted:
                # The next step is prepared from the same state, while this one computes.
                self.schedule_stream.wait_stream(self.forward_stream)
            yield

    last_batch: ScheduleBatch | None

    @overrides("dc1d21fbaa2ddbb6", "a job would be a call among calls")
    def handle_generate_request(self, recv_req: TokenizedGenerateReqInput) -> None:
        if self._eager is not None and is_eager_rid(recv_req.rid):
            self._eager.add(recv_req)
        else:
            if self._eager is not None and is_call_rid(recv_req.rid):
                self._eager.begin_call()
            super().handle_generate_request(recv_req)

    @overrides(
        "60d16c96c040ccba",
        "a slice that is retracted would wait among the calls, and a call that is refused be computed: a stream would "
        "begin with a token of no prompt, and a pair of workers answer from KV that nobody wrote",
    )
    def _add_request_to_queue(self, req: Req, is_retracted: bool = False) -> None:
        if req.prefillshare.is_eager:
            return  # its rows were given back, and its job goes on from what the tree has
        if req.to_finish is not None and not is_retracted:
            # Upstream has one token in place of the prompt now, to end the request with its first step. A stream would
            # begin with what is sampled in it, and status 200. A prefill worker makes no step that would end it: it
            # hands that token's KV over, and reports a good end.
            req.update_finish_state()
            self.output_streamer.stream_output([req], req.return_logprob)
        else:
            super()._add_request_to_queue(req, is_retracted)

    @overrides("0dcc6921d984d58f", "nothing would be computed ahead")
    def get_new_batch_prefill(self, running_batch: ScheduleBatch) -> NextBatchPlan:
        if self._eager is None:
            return super().get_new_batch_prefill(running_batch)
        self._eager.look_after_load()
        if is_prefill_worker():
            put_pushes_last(self)
        plan = super().get_new_batch_prefill(running_batch)
        if is_prefill_worker():
            give_way(self)
        if plan.batch_to_run is not None:
            return plan
        return self._eager.plan(plan.running_batch) or plan

    @overrides("818cd0464bafb288", "a job would get a row among the requests that decode")
    def get_next_batch_to_run(self, running_batch: ScheduleBatch, last_batch: ScheduleBatch | None) -> NextBatchPlan:
        # What upstream does with the last batch is to let its requests decode from now on.
        has_calls = self._eager is None or not is_eager_batch(last_batch)
        return super().get_next_batch_to_run(running_batch, last_batch if has_calls else None)

    @overrides("30c6b4fc8c2b0f15", "a job would be computed once, up to the end of its first slice")
    def process_batch_result(self, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
        super().process_batch_result(batch, result)
        if self._eager is not None:
            self._eager.note_result(batch)

    @overrides(
        "94cc0733d9e3b10b",
        "a job would be handed over, to nobody, and a choice would have no answer",
        of="disaggregation.prefill:SchedulerDisaggregationPrefillMixin.process_batch_result_disagg_prefill",
    )
    def process_batch_result_disagg_prefill(self, batch: ScheduleBatch, result: GenerationBatchResult) -> None:
        if self._eager is not None and is_eager_batch(batch):
            self.batch_result_processor.process_batch_result_prefill(batch, result)
        else:
            keep_states(self.batch_result_processor, batch, result)
            super().process_batch_result_disagg_prefill(batch, result)

    @overrides("c9242868390c1e97", "a job would go on when nobody wants it, and calls end whose ids begin as another's")
    def abort_request(self, recv_req: AbortReq) -> None:
        if recv_req.rid == QUIET_RID and not recv_req.abort_all:
            if self._eager is not None:
                self._eager.begin_quiet()
            return
        if recv_req.abort_all:
            super().abort_request(recv_req)
        else:
            with longer_ids_hidden(self, str(recv_req.rid)):
                super().abort_request(recv_req)
        if self._eager is not None and (recv_req.abort_all or is_eager_rid(recv_req.rid)):
            self._eager.drop(EVERY_JOB if recv_req.abort_all else str(recv_req.rid))

    @overrides("03a97b19f3aae8eb", "a job would hold up a flush, or fill the cache again after it")
    def flush_cache(self, empty_cache: bool = True) -> bool:
        if self._eager is not None:
            self._eager.drop(EVERY_JOB)
            self._end_eager_batch()
        flushed: bool = super().flush_cache(empty_cache)
        return flushed

    def _count_eager(self) -> EagerState | None:
        if self._eager is None:
            return None
        return {
            "tokens": self._eager.num_tokens,
            "hit_tokens": self.tree_cache.eager_hit_tokens,
            "dropped": self._eager.num_dropped,
            "waiting": self._eager.num_waiting,
            "loaded_tokens": self._eager.num_loaded_tokens,
        }

    def _end_eager_batch(self) -> None:
        """Bring a slice that has just run to its end, between two rounds of the loop; calls that run are left alone."""
        if is_decoding(self.running_batch) or not is_eager_batch(self.last_batch):
            return
        # Calls that have ended stand there until the next decode step would begin.
        self.running_batch.filter_batch()
        if self.enable_overlap:
            self.process_batch_result(*self.result_queue.popleft())
        # The loop would else look for its result a second time.
        self.last_batch = None

    @cached_property
    def _eager(self) -> EagerPrefill | None:
        """What is computed ahead; None where that is switched off, and on a decode worker, which prefills nothing."""
        min_tokens = None if is_decode_worker() or self.ps.pp_size > 1 else read_min_tokens()
        return None if min_tokens is None else EagerPrefill(self, min_tokens)

    @overrides("8f40e15d9656c979", "the store would be asked in the wrong namespace, and past the boundary")
    def _prefetch_kvcache(self, req: Req) -> None:
        if self.enable_hicache_storage:
            self.tree_cache.prefetch(req)

    @cached_property
    def _wait(self) -> Wait:
        return Wait()


_SLICES = "how a slice is admitted, brought to its end and out of the way"

RELIED_ON = {
    "managers.scheduler:Scheduler._get_new_batch_prefill_raw": ("5e51c67df4fbdc75", _SLICES),
    "managers.scheduler:Scheduler.event_loop_normal": ("a60b94acd9b4c401", _SLICES),
    "managers.scheduler:Scheduler.event_loop_overlap": ("3825b54d0d51f9a3", _SLICES),
    "managers.scheduler:Scheduler.is_fully_idle": ("c34ef575c9cf608e", _SLICES),
    "managers.scheduler_components.batch_result_processor:SchedulerBatchResultProcessor.process_batch_result_prefill": (
        "b2d9433032d50a36",
        _SLICES,
    ),
    "managers.scheduler_components.flush_wrapper:SchedulerFlushWrapper": ("9fc93f6ea89ffff6", _SLICES),
}
