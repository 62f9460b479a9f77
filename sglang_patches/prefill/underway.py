"""Which uncached starts of prompts are being computed, and who had better wait for them.

A request whose next uncached tokens are just being computed for another one waits a scheduling round, and then finds
them in the tree. Two such requests have matched the same prefix, so they end at the same node of the tree and go on
with the same tokens: that is looked up, prompts are not compared. What is under way is noted in the tree and struck off
when the tree takes the rows. :mod:`sglang_patches.engine.prefill_adder` asks, before a request joins a batch.
"""

from __future__ import annotations

from typing import Any

from sglang_patches.prefill.request_state import RequestState, Start

MIN_TOKENS = 32
"""Shared tokens that are worth a round of waiting; upstream's ``lpm`` has the same bound."""
MAX_ROUNDS = 2
"""Rounds that a request waits for the same tokens; with the overlap schedule, the tree takes them after the second."""


class PrefillsUnderway:
    """Starts of uncached prompt parts that are being computed, each with its request."""

    def __init__(self) -> None:
        self._requests: dict[Start, Any] = {}
        self.slice: Any = None
        """The request of what is computed ahead whose rows the tree has not got yet (``eager/prefill``)."""

    def add(self, req: Any, page_size: int) -> None:
        """Note what a request of the next batch computes."""
        start = _start_of(req, page_size)
        # The first one stays: it is the first to be done, so whoever waits looks for it.
        if start is not None and start not in self._requests:
            req.prefillshare.start_underway = start
            self._requests[start] = req

    def end(self, req: Any) -> None:
        """Strike off what the tree now holds, or what was given up."""
        start = req.prefillshare.start_underway
        req.prefillshare.start_underway = None
        # After a flush another request may have begun the same start.
        if start is not None and self._requests.get(start) is req:
            del self._requests[start]

    def should_wait(self, req: Any, page_size: int) -> bool:
        """Whether another request is computing what this one needs next.

        Effects: counts the rounds, so that nobody waits for ever.
        """
        start = _start_of(req, page_size)
        if start is None or start not in self._requests:
            return False
        state: RequestState = req.prefillshare
        # Each chunk of a long prompt is another start, which is worth waiting for anew.
        state.num_rounds_waited = state.num_rounds_waited + 1 if start == state.awaited_start else 1
        state.awaited_start = start
        return state.num_rounds_waited <= MAX_ROUNDS

    def is_being_sliced(self, req: Any) -> bool:
        """Whether the slice that runs is the start of a request: however short, it costs nothing more to wait for it.

        It was begun because nobody waited, and its rows are there after the next round.
        """
        known = self.slice
        if known is None or known.extra_key != req.extra_key or len(known.origin_input_ids) <= len(req.prefix_indices):
            return False
        is_start: bool = req.full_untruncated_fill_ids[: len(known.origin_input_ids)] == known.origin_input_ids
        return is_start

    def __len__(self) -> int:
        return len(self._requests)


def _start_of(req: Any, page_size: int) -> Start | None:
    """The end of a request's cached prefix and what comes next; None where too little can be shared."""
    # Set by the match, or by the chunk before: the rows up to ``first`` are the tree's, and end at ``last_node``.
    tokens, first = req.full_untruncated_fill_ids, req.cache_protected_len
    end = first + max(MIN_TOKENS, page_size)
    # Never past what may be shared, or what upstream leaves to be computed: rows for log-probabilities, the last token.
    if end > min(req.prefillshare.boundary, req._compute_max_prefix_len(len(tokens)), len(req.origin_input_ids)):
        return None
    # The node is locked by the request that is noted, so its identity is not another node's before that ends.
    return req.extra_key, id(req.last_node), tokens[first:end].tobytes()
