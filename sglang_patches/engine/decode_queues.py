"""What a decode worker takes from a finished hand-off, and whom it accepts one from.

Target: ``sglang.srt.disaggregation.decode``: ``DecodeTransferQueue`` and ``DecodePreallocQueue``
Why: the token that the prefill worker sampled, its log-probability and its sampling mask would become the request's
    first output. A resumed request is matched with the tree again while its own copy of the KV already fills its row:
    rows would leak and a node be unlocked that was never locked. The stock hand-shake never compares models, and
    raises inside the scheduler loop when a page size differs, and waits there for a prefill worker that stalls.
    And a push (:mod:`sglang_patches.disaggregation.pushes`) would be a call among calls: they would wait for its room.
How: what the commit appended is cut off again, and the size of the hand-off noted. A resumed request starts at the
    tree's root, so its rows enter the tree like a new request's. Before upstream asks a prefill worker for its layout,
    its identity is compared (:mod:`sglang_patches.disaggregation.handshake`); a wrong one ends the calls that named it.
    Both are asked beside the scheduler (:mod:`sglang_patches.disaggregation.greetings`).
    Pushes stand behind all calls. They get rows only where much room is left, else they are ended at once; and those
    that have rows give them back when a call finds none, as an aborted call does: when nobody writes to them any more.
Remove when: upstream can hand over a request without a first token, and checks what it is paired with.

Who owns the rows of a request of n tokens, of which the tree here has k, while it passes the two queues:

    row index              0 ........ k-1 | k ............... n-1
    waiting for a place    tree           | nobody
    preallocated           tree, locked   | request; the prefill worker writes to them
    transferred            tree, locked   | request; nobody writes any more
    first step             tree, locked   | request; row n-1 was given back (patches/prebuilt_batch.py)
"""

from __future__ import annotations

from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from sglang.srt.disaggregation import decode as upstream
from sglang.srt.disaggregation.utils import prepare_abort

from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation import hand_off, handshake
from sglang_patches.disaggregation.greetings import Greetings
from sglang_patches.disaggregation.pushes import NO_ROOM, PushedRows, is_push
from sglang_patches.patches.kv_buffers import shared_memory_of

if TYPE_CHECKING:
    import torch
    from sglang.srt.disaggregation.common.conn import CommonKVManager
    from sglang.srt.disaggregation.decode import DecodeRequest
    from sglang.srt.managers.schedule_batch import Req

    from prefillshare.observe.document import PushState

ByAddress = dict[str, list["DecodeRequest"]]
"""Calls by the address of the prefill worker that they name."""

PUSH_RESERVE_SHARE = 0.125
"""Part of the pool that must be left to calls, free or evictable, after a push has got its rows."""
PUSH_RESERVE_PLACES = 2
"""Places for requests that must be left to calls."""

OUTPUT_LISTS = ("output_token_sampling_mask", "output_token_sampling_logprobs")
LOGPROB_LISTS = (
    "output_token_logprobs_val",
    "output_token_logprobs_idx",
    "output_top_logprobs_val",
    "output_top_logprobs_idx",
)


@binds("disaggregation.decode:DecodeTransferQueue", at=("managers.scheduler",))
class DecodeTransferQueue(upstream.DecodeTransferQueue):
    """Calls whose KV is arriving; they leave it without any output."""

    @overrides("9f4706e0c103380e", "the prefill worker's token would be the first of the answer")
    def _commit_transfer_to_req(self, decode_req: DecodeRequest) -> None:
        req = decode_req.req
        super()._commit_transfer_to_req(decode_req)
        _drop_prefill_output(req)
        queue: DecodePreallocQueue = self.scheduler.disagg_decode_prealloc_queue
        # The tree's part was here before, and was not sent.
        hand_off.report(req, req.cache_protected_len, queue.kv_manager)
        if is_push(req):
            queue.note_pushed(req)

    @overrides("055b4786bca92949", "calls would wait behind pushes for their place in the batch")
    def pop_transferred(self, *args: Any, **kwargs: Any) -> list[Req]:
        return sorted(super().pop_transferred(*args, **kwargs), key=is_push)


def _drop_prefill_output(req: Req) -> None:
    del req.output_ids[:]
    for owner, names in ((req, OUTPUT_LISTS), (req.logprob, LOGPROB_LISTS)):
        for name in names:
            del (getattr(owner, name) or [])[:]


@binds("disaggregation.decode:DecodePreallocQueue", at=("managers.scheduler",))
class DecodePreallocQueue(upstream.DecodePreallocQueue):
    """Calls that wait for rows, which they get only for KV of this worker's own prefill module; and pushes."""

    queue: list[DecodeRequest]

    @overrides("52b9a3b5b82fbb89", "prefill workers would not learn that they can write into this worker's memory")
    def _init_kv_manager(self) -> CommonKVManager:
        manager = super()._init_kv_manager()
        manager.shared_memory = shared_memory_of(self.token_to_kv_pool)
        return manager

    @overrides("2c9e66dfcbcfe52c", "rows of resumed requests would leak")
    def resume_retracted_reqs(self, rids_to_check: list[str] | None = None) -> list[Req]:
        resumed: list[Req] = super().resume_retracted_reqs(rids_to_check)
        for req in resumed:
            # Its rows were filled from its own copy on the host: none is the tree's, and no node is locked for it.
            req.last_node = self.tree_cache.root_node
        if self.retracted_queue:
            # As long as one waits for room, upstream looks after nothing else.
            self._give_pushes_up()
            pushes = [decode_req.req.rid for decode_req in self.transfer_queue.queue if is_push(decode_req.req)]
            if pushes:
                self.scheduler.waiting_queue.extend(self.transfer_queue.pop_transferred(pushes))
        return resumed

    @overrides("8527f34e9b011957", "calls would wait for the room of pushes")
    def pop_preallocated(self, *args: Any, **kwargs: Any) -> tuple[list[DecodeRequest], list[DecodeRequest]]:
        self._put_calls_first()
        popped: tuple[list[DecodeRequest], list[DecodeRequest]] = super().pop_preallocated(*args, **kwargs)
        # A call that could be served, had it rows and a place.
        if any(decode_req.waiting_for_input and not is_push(decode_req.req) for decode_req in self.queue):
            self._give_pushes_up()
        return popped

    @overrides("3685af106c14776d", "nobody would know whether pushes are of use")
    def _pre_alloc(
        self, req: Req, prefix_indices: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        rows: torch.Tensor = super()._pre_alloc(req, prefix_indices, *args, **kwargs)
        self._pushed_rows.reuse(rows)
        if prefix_indices is not None and not is_push(req):
            self._pushed_rows.hit(prefix_indices)
        return rows

    def note_pushed(self, req: Req) -> None:
        """The rows of a push have arrived; those of whole pages before x_n go into the tree in a moment."""
        page_size = self.tree_cache.page_size
        end = (len(req.origin_input_ids) - 1) // page_size * page_size
        self._pushed_rows.mark(self.req_to_token_pool.req_to_token[req.req_pool_idx, req.cache_protected_len : end])

    def count_pushes(self) -> PushState:
        """What was pushed to this worker, and what of it was used."""
        return self._pushed_rows.as_state()

    @cached_property
    def _pushed_rows(self) -> PushedRows:
        allocator = self.token_to_kv_pool_allocator
        # The pool has one page more, which nobody owns.
        return PushedRows(allocator.size + allocator.page_size, self.req_to_token_pool.req_to_token.device)

    def _put_calls_first(self) -> None:
        """Move pushes behind all calls, and end those for which there is no room."""
        pushes = [decode_req for decode_req in self.queue if is_push(decode_req.req)]
        if not pushes:
            return
        self.queue = [decode_req for decode_req in self.queue if not is_push(decode_req.req)] + pushes
        for decode_req in pushes:
            if decode_req.waiting_for_input and not self._has_room_for_push(decode_req.req):
                self._end_push(decode_req)

    def _has_room_for_push(self, req: Req) -> bool:
        places = (self.req_to_token_pool, self.req_to_metadata_buffer_idx_allocator)
        if any(place.available_size() <= PUSH_RESERVE_PLACES for place in places):
            return False
        # Locked, for what it would hold cannot be evicted for its rows.
        match = self._match_prefix_and_lock(req)
        needed = self._required_alloc_tokens(fill_len=self._pre_alloc_fill_len(req), prefix_len=match.l1_prefix_len)
        num_left = self._allocatable_token_budgets(count_retracted=True) - needed
        self.tree_cache.dec_lock_ref(req.last_node)
        return bool(num_left >= PUSH_RESERVE_SHARE * self.max_total_num_tokens)

    def _give_pushes_up(self) -> None:
        """End all pushes, wherever they are; their rows are free once nobody writes to them."""
        for decode_req in self.queue:
            if is_push(decode_req.req):
                self._end_push(decode_req)
        for decode_req in self.transfer_queue.queue:
            if is_push(decode_req.req) and not decode_req.kv_receiver.abort_notified:
                self._pushed_rows.num_dropped += 1
                decode_req.kv_receiver.abort()

    def _end_push(self, decode_req: DecodeRequest) -> None:
        """End a push that has no rows yet; the queue streams the abort and forgets it in its next pass."""
        if decode_req.req.finished():
            return  # in an earlier round, and the queue has not got to it
        self._pushed_rows.num_dropped += 1
        prepare_abort(decode_req.req, NO_ROOM, status_code=HTTPStatus.SERVICE_UNAVAILABLE)
        receiver = decode_req.kv_receiver
        # As an abort does, but that would be logged and counted as a failure. The prefill worker would wait for it.
        if getattr(receiver, "bootstrap_infos", None) is not None and not receiver.abort_notified:
            receiver._send_abort_notification()
            receiver.abort_notified = True

    @overrides(
        "886a2f6c8b95e1f0",
        "KV of another prefill module would be decoded, and all calls wait for a prefill worker that stalls",
    )
    def _ensure_prefill_info(self, addr_to_reqs: ByAddress) -> tuple[ByAddress, list[DecodeRequest]]:
        """Calls whose prefill worker is known and the right one, by its address, and those that must wait.

        Effects: ends calls that name a prefill worker of another deployment, or one that is away. Waits for nobody.
        """
        ready: ByAddress = {}
        waiting: list[DecodeRequest] = []
        for address, decode_reqs in addr_to_reqs.items():
            # Upstream forgets a worker that was away, so one that came back as another is asked again.
            is_known = address in self.kv_manager.prefill_info_table
            reason = None if is_known else self._greetings.look(address)
            if reason is not None:
                self._fail(decode_reqs, reason)
            elif is_known or address in self.kv_manager.prefill_info_table:
                ready[address] = decode_reqs
            else:
                waiting += decode_reqs
        self._greetings.forget_others(set(addr_to_reqs))
        return ready, waiting

    @cached_property
    def _greetings(self) -> Greetings:
        return Greetings(self._greet, pause_s=self._ensure_retry_interval, max_tries=self._max_ensure_retries)

    def _greet(self, address: str) -> str | None:
        """Compare identities, and then fetch the worker's layout, with which upstream knows it; in a thread."""
        reason = handshake.refusal(address)
        if reason is not None and self.tp_rank != 0:
            # The first rank ends the calls, as it is the one that answers; all others end them in the same pass.
            raise OSError(reason)
        if reason is None:
            try:
                is_known = self.kv_manager.try_ensure_parallel_info(address)
            except (RuntimeError, AssertionError) as error:  # sizes that do not fit, which upstream compares here
                return f"the prefill worker at {address} does not fit: {error}"
            if not is_known:
                raise OSError("its layout is not known, see above")
        return reason

    def _fail(self, decode_reqs: list[DecodeRequest], reason: str) -> None:
        """End these calls on all ranks: the ranks agree on it when the queue looks at its waiters, in the same pass."""
        for decode_req in decode_reqs:
            if decode_req.kv_receiver is not None:
                decode_req.kv_receiver.abort()
                # In place of the reason that upstream has for an abort.
                self.kv_manager.record_failure(decode_req.req.bootstrap_room, reason)
                self._reasons[decode_req.req.rid] = reason

    @cached_property
    def _reasons(self) -> dict[str, str]:
        """Why calls were ended in this pass, by their ids."""
        return {}

    @overrides("8862950935f1de38", "callers would be told ranks and rooms in place of what is wrong")
    def _update_handshake_waiters(self, *args: Any, **kwargs: Any) -> None:
        super()._update_handshake_waiters(*args, **kwargs)
        for decode_req in self.queue if self._reasons else ():
            if (reason := self._reasons.pop(decode_req.req.rid, None)) is not None:
                prepare_abort(decode_req.req, reason, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)
        self._reasons.clear()


_ROWS = "who owns which rows during a hand-off"
_KNOWN = "a thread calls it, and a prefill worker is known from its last step on"

RELIED_ON = {
    "disaggregation.common.conn:CommonKVManager.try_ensure_parallel_info": ("3b9e5cba79e162a6", _KNOWN),
    "disaggregation.decode:DecodePreallocQueue._match_prefix_and_lock": ("d82ed29516232ffd", _ROWS),
    "disaggregation.decode:DecodePreallocQueue._allocatable_token_budgets": ("b925e21922cf4806", _ROWS),
    "disaggregation.decode:DecodePreallocQueue._required_alloc_tokens": ("b53cc1b42fa1844a", _ROWS),
    "disaggregation.decode:SchedulerDisaggregationDecodeMixin.get_new_prebuilt_batch": ("21a18f591085872b", _ROWS),
    "managers.schedule_batch:release_req": ("e9ac2945297980b3", _ROWS),
    "managers.schedule_policy:match_prefix_for_req": ("4af2fe8ddba2a14f", _ROWS),
}
