"""Calls that arrive together compute a common start of their prompts once.

Target: ``sglang.srt.managers.schedule_policy.PrefillAdder.add_one_req`` and ``add_chunked_req``
Why: a prefix is found in the tree only when the batch that computes it is over. Agents
    asked at the same time over one context would each prefill it, in one batch; so
    would a call that arrives while the first one's batch runs.
How: a request whose next uncached tokens are just being computed for another one waits
    a scheduling round, and then finds them in the tree. Two such requests have matched
    the same prefix, so they end at the same node of the tree and go on with the same
    tokens: that is looked up, prompts are not compared. What is under way is noted in
    the tree (``PrefillsUnderway``) and struck off when the tree takes the rows.
Upstream: sglang/srt/managers/schedule_policy.py:1059,868 at 0.5.17. Its policy ``lpm``
    moves such requests to the end of the queue, which a batch that is not full takes
    in all the same.
Remove when: the scheduler itself holds them back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MIN_TOKENS = 32
"""Shared tokens that are worth a round of waiting; upstream's ``lpm`` has the same bound."""
MAX_ROUNDS = 2
"""Rounds that a request waits for the same tokens; with the overlap schedule, the tree takes them after the second."""

Start = tuple[str | None, int, bytes]


class PrefillsUnderway:
    """Starts of uncached prompt parts that are being computed, each with its request."""

    def __init__(self) -> None:
        self._requests: dict[Start, Any] = {}

    def add(self, req: Any, page_size: int) -> None:
        """Note what a request of the next batch computes."""
        start = _start_of(req, page_size)
        if start is not None and start not in self._requests:
            req.start_underway = start
            self._requests[start] = req

    def end(self, req: Any) -> None:
        """Strike off what the tree now holds, or what was given up."""
        start, req.start_underway = req.start_underway, None
        if start is not None and self._requests.get(start) is req:
            del self._requests[start]

    def should_wait(self, req: Any, page_size: int) -> bool:
        """Whether another request is computing what this one needs next.

        Effects: counts the rounds, so that nobody waits for ever.
        """
        start = _start_of(req, page_size)
        if start is None or start not in self._requests:
            return False
        start_before, num_rounds = req.awaited_start
        num_rounds = num_rounds + 1 if start == start_before else 1
        req.awaited_start = (start, num_rounds)
        return num_rounds <= MAX_ROUNDS

    def __len__(self) -> int:
        return len(self._requests)


def wrap_add_one_req(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_one_req(self: Any, req: Any, *args: Any, **kwargs: Any) -> Any:
        from sglang.srt.managers.schedule_policy import AddReqResult

        underway: PrefillsUnderway | None = getattr(self.tree_cache, "underway", None)
        if underway is None:
            return original(self, req, *args, **kwargs)
        if underway.should_wait(req, self.page_size):
            return AddReqResult.CONTINUE
        result = original(self, req, *args, **kwargs)
        if self.can_run_list and self.can_run_list[-1] is req:
            underway.add(req, self.page_size)
        return result

    return add_one_req


def wrap_add_chunked_req(original: Callable[..., Any]) -> Callable[..., Any]:
    def add_chunked_req(self: Any, req: Any) -> Any:
        underway: PrefillsUnderway | None = getattr(self.tree_cache, "underway", None)
        if underway is not None:
            underway.add(req, self.page_size)
        return original(self, req)

    return add_chunked_req


def _start_of(req: Any, page_size: int) -> Start | None:
    """The end of a request's cached prefix and what comes next; None where too little can be shared."""
    tokens, first = req.full_untruncated_fill_ids, req.cache_protected_len
    end = first + max(MIN_TOKENS, page_size)
    if end > min(req.prefill_boundary, req._compute_max_prefix_len(len(tokens)), len(req.origin_input_ids)):
        return None
    return req.extra_key, id(req.last_node), tokens[first:end].tobytes()
