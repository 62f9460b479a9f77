"""What a decode worker takes from a finished hand-off, and whom it accepts one from.

Target: ``sglang.srt.disaggregation.decode``: ``DecodeTransferQueue._commit_transfer_to_req``,
    ``DecodePreallocQueue.resume_retracted_reqs`` and ``DecodePreallocQueue._ensure_prefill_info``
Why: the token that the prefill worker sampled, its log-probability and its sampling mask would become the request's
    first output. A resumed request is matched with the tree again while its own copy of the KV already fills its row:
    rows would leak and a node be unlocked that was never locked. The stock hand-shake never compares models, and
    raises inside the scheduler loop when a page size differs.
How: what the commit appended is cut off again, and the size of the hand-off noted. A resumed request starts at the
    tree's root, so its rows enter the tree like a new request's. Before upstream asks a prefill worker for its layout,
    its identity is compared (:mod:`sglang_patches.disaggregation.handshake`); a wrong one ends the calls that named it.
Upstream: sglang/srt/disaggregation/decode.py:1792, :704 and :806 at 0.5.17.
Remove when: upstream can hand over a request without a first token, and checks what it is paired with.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from sglang_patches.disaggregation import hand_off, handshake

Pending = tuple[dict[str, list[Any]], list[Any]]
"""Calls whose prefill worker is known, by its address, and those that must wait."""

OUTPUT_LISTS = ("output_token_sampling_mask", "output_token_sampling_logprobs")
LOGPROB_LISTS = (
    "output_token_logprobs_val",
    "output_token_logprobs_idx",
    "output_top_logprobs_val",
    "output_top_logprobs_idx",
)


def wrap_commit_transfer(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def _commit_transfer_to_req(self: Any, decode_req: Any) -> None:
        req = decode_req.req
        original(self, decode_req)
        _drop_prefill_output(req)
        hand_off.report(req, req.cache_protected_len, self.scheduler.disagg_decode_prealloc_queue.kv_manager)

    return _commit_transfer_to_req


def _drop_prefill_output(req: Any) -> None:
    del req.output_ids[:]
    for owner, names in ((req, OUTPUT_LISTS), (req.logprob, LOGPROB_LISTS)):
        for name in names:
            del (getattr(owner, name) or [])[:]


def wrap_resume_retracted(original: Callable[..., list[Any]]) -> Callable[..., list[Any]]:
    def resume_retracted_reqs(self: Any, rids_to_check: list[str] | None = None) -> list[Any]:
        resumed = original(self, rids_to_check)
        for req in resumed:
            req.last_node = self.tree_cache.root_node
        return resumed

    return resume_retracted_reqs


def wrap_ensure_prefill_info(original: Callable[..., Pending]) -> Callable[..., Pending]:
    def _ensure_prefill_info(self: Any, addr_to_reqs: dict[str, list[Any]]) -> Pending:
        asked, unanswered, waiting = {}, [], []
        for address, decode_reqs in addr_to_reqs.items():
            if address not in self.kv_manager.prefill_info_table:
                if not _is_due(self, address):
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
        ready, remaining = original(self, asked)
        for address in unanswered:
            # It came up in this very moment: its identity is asked for in the next round.
            if address in ready:
                del self.kv_manager.prefill_info_table[address]
                remaining += ready.pop(address)
        _tell_who_is_away(self, asked, ready, remaining)
        return ready, remaining + waiting

    return _ensure_prefill_info


def _is_due(queue: Any, address: str) -> bool:
    """Upstream's own pause between two attempts: each blocks the scheduler until it is answered."""
    last = queue._ensure_last_attempt_time.get(address)
    return last is None or time.monotonic() - last >= queue._ensure_retry_interval


def _refuse(decode_reqs: list[Any], reason: str) -> None:
    """End these calls; the queue streams the abort and forgets them in the same pass."""
    from sglang.srt.disaggregation.utils import prepare_abort

    for decode_req in decode_reqs:
        prepare_abort(decode_req.req, reason, status_code=HTTPStatus.INTERNAL_SERVER_ERROR)


def _tell_who_is_away(queue: Any, asked: dict[str, list[Any]], ready: Any, remaining: list[Any]) -> None:
    """Upstream gave the other calls up, and would say "Aborted by AbortReq." as the reason."""
    kept = {id(decode_req) for decode_req in remaining}
    for address, decode_reqs in asked.items():
        for decode_req in decode_reqs if address not in ready else ():
            if id(decode_req) not in kept:
                reason = f"the prefill worker at {address} does not answer: see whether it runs"
                queue.kv_manager.record_failure(decode_req.req.bootstrap_room, reason)
