"""What a decode worker takes from a finished hand-off, and whom it accepts one from.

Target: ``sglang.srt.disaggregation.decode``: ``DecodeTransferQueue`` and ``DecodePreallocQueue``
Why: the token that the prefill worker sampled, its log-probability and its sampling mask would become the request's
    first output. A resumed request is matched with the tree again while its own copy of the KV already fills its row:
    rows would leak and a node be unlocked that was never locked. The stock hand-shake never compares models, and
    raises inside the scheduler loop when a page size differs.
How: what the commit appended is cut off again, and the size of the hand-off noted. A resumed request starts at the
    tree's root, so its rows enter the tree like a new request's. Before upstream asks a prefill worker for its layout,
    its identity is compared (:mod:`sglang_patches.disaggregation.handshake`); a wrong one ends the calls that named it.
Remove when: upstream can hand over a request without a first token, and checks what it is paired with.

Who owns the rows of a request of n tokens, of which the tree here has k, while it passes the two queues:

    row index              0 ........ k-1 | k ............... n-1
    waiting for a place    tree           | nobody
    preallocated           tree, locked   | request; the prefill worker writes to them
    transferred            tree, locked   | request; nobody writes any more
    first step             tree, locked   | request; row n-1 was given back (patches/prebuilt_batch.py)
"""

from __future__ import annotations

import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from sglang.srt.disaggregation import decode as upstream
from sglang.srt.disaggregation.utils import prepare_abort

from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation import hand_off, handshake

if TYPE_CHECKING:
    from sglang.srt.disaggregation.decode import DecodeRequest
    from sglang.srt.managers.schedule_batch import Req

ByAddress = dict[str, list["DecodeRequest"]]
"""Calls by the address of the prefill worker that they name."""

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
        # The tree's part was here before, and was not sent.
        hand_off.report(req, req.cache_protected_len, self.scheduler.disagg_decode_prealloc_queue.kv_manager)


def _drop_prefill_output(req: Req) -> None:
    del req.output_ids[:]
    for owner, names in ((req, OUTPUT_LISTS), (req.logprob, LOGPROB_LISTS)):
        for name in names:
            del (getattr(owner, name) or [])[:]


@binds("disaggregation.decode:DecodePreallocQueue", at=("managers.scheduler",))
class DecodePreallocQueue(upstream.DecodePreallocQueue):
    """Calls that wait for rows, which they get only for KV of this worker's own prefill module."""

    @overrides("2c9e66dfcbcfe52c", "rows of resumed requests would leak")
    def resume_retracted_reqs(self, rids_to_check: list[str] | None = None) -> list[Req]:
        resumed: list[Req] = super().resume_retracted_reqs(rids_to_check)
        for req in resumed:
            # Its rows were filled from its own copy on the host: none is the tree's, and no node is locked for it.
            req.last_node = self.tree_cache.root_node
        return resumed

    @overrides("886a2f6c8b95e1f0", "KV of another prefill module would be decoded")
    def _ensure_prefill_info(self, addr_to_reqs: ByAddress) -> tuple[ByAddress, list[DecodeRequest]]:
        """Calls whose prefill worker is known and the right one, by its address, and those that must wait."""
        asked, unanswered, waiting = self._compare_identities(addr_to_reqs)
        ready, remaining = super()._ensure_prefill_info(asked)
        for address in unanswered:
            # It came up in this very moment: its identity is asked for in the next round.
            if address in ready:
                del self.kv_manager.prefill_info_table[address]
                remaining += ready.pop(address)
        self._record_who_is_away(asked, ready, remaining)
        return ready, remaining + waiting

    def _compare_identities(self, addr_to_reqs: ByAddress) -> tuple[ByAddress, list[str], list[DecodeRequest]]:
        """Whom upstream may ask for its layout, who of them does not answer, and calls that are not due yet.

        Effects: ends calls that name a prefill worker of another deployment.
        """
        asked: ByAddress = {}
        unanswered: list[str] = []
        waiting: list[DecodeRequest] = []
        for address, decode_reqs in addr_to_reqs.items():
            # Upstream forgets a worker that was away, so one that came back as another is asked again.
            if address not in self.kv_manager.prefill_info_table:
                if not self._is_due(address):
                    waiting += decode_reqs
                    continue
                try:
                    reason = handshake.refusal(address)
                except OSError:
                    unanswered.append(address)
                else:
                    if reason is not None:
                        _refuse(decode_reqs, reason)
                        continue
            asked[address] = decode_reqs
        return asked, unanswered, waiting

    def _is_due(self, address: str) -> bool:
        """Upstream's own pause between two attempts: each blocks the scheduler until it is answered."""
        last: float | None = self._ensure_last_attempt_time.get(address)
        return last is None or bool(time.monotonic() - last >= self._ensure_retry_interval)

    def _record_who_is_away(self, asked: ByAddress, ready: ByAddress, remaining: list[DecodeRequest]) -> None:
        """Upstream gave the other calls up, and would say "Aborted by AbortReq." as the reason."""
        kept = {id(decode_req) for decode_req in remaining}
        for address, decode_reqs in asked.items():
            for decode_req in decode_reqs if address not in ready else ():
                if id(decode_req) not in kept:
                    reason = f"the prefill worker at {address} does not answer: see whether it runs"
                    self.kv_manager.record_failure(decode_req.req.bootstrap_room, reason)


def _refuse(decode_reqs: list[DecodeRequest], reason: str) -> None:
    """End these calls; the queue streams the abort and forgets them in the same pass."""
    for decode_req in decode_reqs:
        prepare_abort(decode_req.req, reason, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)


_ROWS = "who owns which rows during a hand-off"

RELIED_ON = {
    "disaggregation.decode:DecodePreallocQueue._match_prefix_and_lock": ("d82ed29516232ffd", _ROWS),
    "disaggregation.decode:DecodePreallocQueue._pre_alloc": ("3685af106c14776d", _ROWS),
    "disaggregation.decode:DecodePreallocQueue.pop_preallocated": ("8527f34e9b011957", _ROWS),
    "disaggregation.decode:DecodeTransferQueue.pop_transferred": ("055b4786bca92949", _ROWS),
    "disaggregation.decode:SchedulerDisaggregationDecodeMixin.get_new_prebuilt_batch": ("21a18f591085872b", _ROWS),
    "managers.schedule_batch:release_req": ("e9ac2945297980b3", _ROWS),
    "managers.schedule_policy:match_prefix_for_req": ("4af2fe8ddba2a14f", _ROWS),
}
