"""KV that a decode worker is handed before any call asks for it: how it is told from calls, and what it was good for.

A push is a pair of legs that asks for no token; its request id begins with ``PUSH_RID_PREFIX``, on both workers. It
brings rows 0 .. n-2 into the tree here, as a call with that prompt would, and is no part of the load that is counted.

What was pushed is remembered by row, for the tree splits and joins its nodes:

    preallocated   its rows are nobody's any more       count those that are marked as wasted, and unmark them
    transferred    rows that the push brought           mark
    a call comes   rows of its cached prefix            count those that are marked, and unmark them

A row that is evicted keeps its mark until it is preallocated again: no other row enters the tree of a decode worker.
Only then is it known that it was of no use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from prefillshare.contract import PUSH_RID_PREFIX
from prefillshare.observe.document import PushState

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


NO_ROOM = "given up: calls need the room"
"""Why a push ends that is not done."""


def is_push_rid(rid: object) -> bool:
    """Whether this is the id of a push."""
    return isinstance(rid, str) and rid.startswith(PUSH_RID_PREFIX)


def is_push(req: Req) -> bool:
    """Whether nobody asked for this request."""
    return is_push_rid(req.rid)


class PushedRows:
    """Which rows of a pool of ``num_rows`` were pushed and not yet used, and how many there were."""

    def __init__(self, num_rows: int, device: torch.device) -> None:
        self._num_rows = num_rows
        self._device = device
        self._is_pushed: torch.Tensor | None = None  # until the first push
        self._num_pushed = 0
        self._num_hit = 0
        self._num_wasted = 0
        self.num_dropped = 0
        """Pushes that were ended for calls."""

    def mark(self, rows: torch.Tensor) -> None:
        """These rows were pushed."""
        if self._is_pushed is None:
            self._is_pushed = torch.zeros(self._num_rows, dtype=torch.bool, device=self._device)
        self._is_pushed[rows] = True
        self._num_pushed += len(rows)

    def reuse(self, rows: torch.Tensor) -> None:
        """These rows are given to somebody, before a call has found what was pushed to them."""
        self._num_wasted += self._unmark(rows)

    def hit(self, rows: torch.Tensor) -> None:
        """A call need not be handed these rows: each counts once."""
        self._num_hit += self._unmark(rows)

    def _unmark(self, rows: torch.Tensor) -> int:
        if self._is_pushed is None:
            return 0
        num_marked = int(self._is_pushed[rows].sum())
        self._is_pushed[rows] = False
        return num_marked

    def as_state(self) -> PushState:
        """What is told of it."""
        return {
            "pushed_tokens": self._num_pushed,
            "push_hit_tokens": self._num_hit,
            "push_wasted_tokens": self._num_wasted,
            "dropped_pushes": self.num_dropped,
        }
