"""The scheduler's side: a job is computed in slices, each a prefill-only base request of its own.

    tokens   0 ........ known ........ end ........ len
             |- in tree --|-- slice ----|-- later ---|
    page     known and end are whole pages; what is left beyond the last whole page cannot be cached

A slice is an ordinary request that asks for no token, whose prompt ends where the slice does: the tree has it when the
slice is over, and the next one begins behind it. Between two slices nothing is held, no rows and no place in a queue,
so a call that comes is admitted as if there were no jobs, after one slice at the longest.

A slice is admitted when no call waits and none decodes, and none has for a moment (:mod:`sglang_patches.eager.quiet`),
so that it slows nobody down: where calls always run, a job is all cost, since some answers never come back, and its
gain, a shorter wait of the next call, is small beside the others. Upstream's own rules of room hold. Where it is not
admitted, its job is given up: a pool that is full has no use for it.
:mod:`sglang_patches.engine.scheduler` asks here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sglang_patches.disaggregation.pushes import is_push
from sglang_patches.eager.backlog import Backlog, Job
from sglang_patches.eager.loading import JobLoads
from sglang_patches.eager.slices import count_slice_tokens

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput
    from sglang.srt.managers.schedule_batch import NextBatchPlan, Req, ScheduleBatch
    from sglang.srt.managers.scheduler import Scheduler

    from sglang_patches.prefill.request_state import RequestState

EVERY_JOB = ""
"""Every id begins so."""

_COMPUTED: dict[str, Any] = {"type": "length", "length": 0}
_GIVEN_UP: dict[str, Any] = {"type": "abort", "message": "given up: others needed the room"}


def is_eager_batch(batch: ScheduleBatch | None) -> bool:
    """Whether a batch is a slice and nothing else."""
    return batch is not None and bool(batch.reqs) and all(req.prefillshare.is_eager for req in batch.reqs)


def is_decoding(running_batch: ScheduleBatch) -> bool:
    """Whether a call of the running batch goes on; those that have ended stay in it until the next decode step."""
    return any(not req.finished() for req in running_batch.reqs)


class EagerPrefill:
    """The jobs of one scheduler, and the slice that is being computed."""

    def __init__(self, scheduler: Scheduler, min_tokens: int) -> None:
        from sglang.srt.disaggregation.utils import DisaggregationMode

        self._scheduler = scheduler
        self._min_tokens = min_tokens
        self._page_size = scheduler.page_size
        self._slice_tokens = count_slice_tokens(scheduler.page_size, scheduler.chunked_prefill_size)
        self._is_awaited = scheduler.disaggregation_mode == DisaggregationMode.PREFILL
        self._jobs = Backlog()
        self._loads = JobLoads(scheduler.tree_cache) if scheduler.enable_hicache_storage else None
        # Not in the backlog while a slice of it runs; a job that is given up meanwhile leaves its slice behind.
        self._running: tuple[Job, Req] | None = None
        # Until the first call comes, nobody is at work.
        self._is_quiet = True
        self.num_tokens = 0
        self.num_dropped = 0

    @property
    def num_waiting(self) -> int:
        """Jobs that are not over, the slice that runs included."""
        is_slice_running = self._running is not None or self._scheduler.tree_cache.underway.slice is not None
        return len(self._jobs) + is_slice_running + self.is_loading

    @property
    def num_loaded_tokens(self) -> int:
        """Tokens that came from the store for jobs."""
        return 0 if self._loads is None else self._loads.num_tokens

    @property
    def is_loading(self) -> bool:
        """Whether a job waits for the store."""
        return self._loads is not None and self._loads.job is not None

    def look_after_load(self) -> None:
        """A scheduling round begins: a job whose load has ended waits for its turn, whether calls run or not."""
        if self._loads is not None and (job := self._loads.end()) is not None:
            self._push(job)

    def begin_call(self) -> None:
        """A call came: until it is said that none runs any more, no slice begins."""
        self._is_quiet = False

    def begin_quiet(self) -> None:
        """No call has run for a moment."""
        self._is_quiet = True

    def add(self, call: TokenizedGenerateReqInput) -> None:
        """A job came."""
        assert call.input_ids is not None
        job = Job(
            rid=str(call.rid),
            tokens=call.input_ids,
            extra_key=call.extra_key,
            module=call.routing_key,
            http_worker_ipc=call.http_worker_ipc,
        )
        if len(job.tokens) >= self._scheduler.max_req_input_len:
            self._drop(job)
        else:
            self._push(job)

    def drop(self, rid_prefix: str) -> None:
        """Give up all jobs whose id begins so; the slice that runs goes on, and is the last of its job."""
        for job in self._jobs.take(rid_prefix):
            self._drop(job)
        if self._loads is not None and (loading := self._loads.job) is not None and loading.rid.startswith(rid_prefix):
            self._loads.give_up()
            self._drop(loading)
        if self._running is not None and self._running[0].rid.startswith(rid_prefix):
            job, _ = self._running
            self._running = None
            self._drop(job)

    def plan(self, running_batch: ScheduleBatch) -> NextBatchPlan | None:
        """The next slice, if there is one and nobody waits."""
        if not self._jobs or not self._is_quiet or self.is_loading or not self._may_run(running_batch):
            return None
        while self._jobs:
            job = self._jobs.pop()
            num_known = self._count_known(job)
            if self._is_done(job, num_known):
                self._answer(job, _COMPUTED)
                continue
            if self._must_load(job):
                return None
            req = self._make_request(job, num_known + self._slice_tokens)
            plan = self._admit(req, running_batch) if len(req.origin_input_ids) > num_known else None
            if plan is None:
                self._drop(job)
            else:
                self._running = (replace(job, is_begun=True), req)
                self._scheduler.tree_cache.underway.slice = req
            return plan
        return None

    def note_result(self, batch: ScheduleBatch) -> None:
        """The results of a batch are in: the job of a slice that was in it goes back, until it is all computed."""
        underway = self._scheduler.tree_cache.underway
        if underway.slice is not None and any(req is underway.slice for req in batch.reqs):
            self.num_tokens += underway.slice.extend_range.length
            underway.slice = None
        # With overlapping steps, a slice may stand in the batch after its own, as any request that has just ended.
        if self._running is None or not any(req is self._running[1] for req in batch.reqs):
            return
        job, req = self._running
        self._running = None
        is_last = len(req.origin_input_ids) >= self._whole_pages(len(job.tokens))
        if is_last and not req.is_retracted:
            self._answer(job, _COMPUTED)
        else:
            self._push(job)

    def _may_run(self, running_batch: ScheduleBatch) -> bool:
        """Whether nobody decodes or waits, for a batch, a grammar or a flush, and the last slice is in the tree."""
        scheduler = self._scheduler
        bootstrapping = scheduler.disagg_prefill_bootstrap_queue
        is_anybody_waiting = (
            scheduler.waiting_queue
            or scheduler.chunked_req is not None
            or scheduler.grammar_manager.has_waiting_grammars()
            or (bootstrapping is not None and not all(map(is_push, bootstrapping.queue)))
            or scheduler.flush_wrapper._pending is not None
        )
        has_place = scheduler.get_num_allocatable_reqs(len(running_batch.reqs)) > 0 and not running_batch.batch_is_full
        if is_anybody_waiting or is_decoding(running_batch) or not has_place or self._running is not None:
            return False
        # With overlapping steps the tree has not got the rows of the last batch: they may be the very ones of a job.
        last_batch = scheduler.last_batch
        return not (scheduler.enable_overlap and last_batch is not None and last_batch.forward_mode.is_extend())

    def _must_load(self, job: Job) -> bool:
        """Whether a job has to wait for what the store has of it, which it then does; it is asked for once."""
        if self._loads is None or job.is_asked or job.is_begun:
            return False
        return self._loads.begin(replace(job, is_asked=True), self._make_request(job, len(job.tokens)))

    def _count_known(self, job: Job) -> int:
        """Tokens that the tree has of it, in the pool or on the host."""
        from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
        from sglang.srt.mem_cache.radix_cache import RadixKey

        key = RadixKey(job.tokens, job.extra_key).page_aligned(self._page_size)
        match = self._scheduler.tree_cache.match_prefix(MatchPrefixParams(key=key))
        return len(match.device_indices) + match.host_hit_length

    def _is_done(self, job: Job, num_known: int) -> bool:
        num_left = self._whole_pages(len(job.tokens)) - num_known
        return num_left < (1 if job.is_begun else self._min_tokens)

    def _whole_pages(self, num_tokens: int) -> int:
        return num_tokens // self._page_size * self._page_size

    def _make_request(self, job: Job, end: int) -> Req:
        """A request that asks for no token, of the job's tokens up to the last whole page before `end`."""
        from sglang.srt.managers.schedule_batch import Req
        from sglang.srt.sampling.sampling_params import SamplingParams

        scheduler = self._scheduler
        params = SamplingParams(max_new_tokens=0)
        params.normalize(None)
        req = Req(
            job.rid,
            "",
            job.tokens[: self._whole_pages(min(end, len(job.tokens)))],
            params,
            extra_key=job.extra_key,
            routing_key=job.module,
            eos_token_ids=scheduler.model_config.hf_eos_token_id,
            vocab_size=scheduler.model_config.vocab_size,
            disagg_mode=scheduler.disaggregation_mode,
        )
        req.tokenizer = scheduler.tokenizer
        req.logprob_start_len = len(req.origin_input_ids)
        # The least of all, where calls have priorities.
        scheduler._set_or_validate_priority(req)
        state: RequestState = req.prefillshare
        state.slice_tokens = self._slice_tokens
        state.decode_module = job.module
        # What it finds in the tree is nobody's hit.
        state.are_hits_counted = True
        return req

    def _admit(self, req: Req, running_batch: ScheduleBatch) -> NextBatchPlan | None:
        """A batch with the slice, as upstream admits a request that is alone in the queue; None where it has no room.

        Effects: none where there is no room.
        """
        from sglang.srt.managers.schedule_batch import NextBatchPlan

        scheduler, queue = self._scheduler, self._scheduler.waiting_queue
        assert not queue
        scheduler.waiting_queue = [req]
        batch, running = scheduler._get_new_batch_prefill_raw(
            prefill_delayer_single_pass=None, running_batch=running_batch
        )
        # Preempted calls would stand there by now.
        scheduler.waiting_queue = queue + [other for other in scheduler.waiting_queue if other is not req]
        if batch is None:
            # Upstream says so when a request finds no room; a call that comes next is none of this one.
            running_batch.batch_is_full = False
            return None
        return NextBatchPlan(batch_to_run=batch, running_batch=running)

    def _push(self, job: Job) -> None:
        oldest = self._jobs.push(job)
        if oldest is not None:
            self._drop(oldest)

    def _drop(self, job: Job) -> None:
        self.num_dropped += 1
        self._answer(job, _GIVEN_UP)

    def _answer(self, job: Job, reason: dict[str, Any]) -> None:
        """Tell who asked, if it waits: on a prefill worker the router does."""
        from sglang.srt.managers.io_struct import AbortReq

        if self._is_awaited:
            # The message that ends a request from outside of a batch, whatever the reason.
            message = AbortReq(rid=job.rid, finished_reason=reason, http_worker_ipc=job.http_worker_ipc)
            self._scheduler.ipc_channels.send_to_tokenizer.send_output(message, message)
