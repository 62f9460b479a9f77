"""The HTTP process holds calls back until there is memory for their sessions, and then sends them to the scheduler.

A call waits between tokenising and sending: the scheduler, and with it eager jobs, the store, chunks and retractions,
know nothing of it until it is taken. To its caller it is a call that waits; whoever leaves or aborts it takes it out.
:mod:`sglang_patches.engine.tokenizer_manager` asks here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from prefillshare.observe.document import AdmissionState, part_of
from sglang_patches.admission.held import cut
from sglang_patches.admission.rules import Admission, Call

if TYPE_CHECKING:
    from sglang.srt.managers.io_struct import TokenizedGenerateReqInput

LOOK_S = 0.05
"""Pause between two looks while somebody waits: time alone may let a call in."""

_LEAST = 1 << 63
"""Behind every priority that a call may have."""


class Gate:
    """Calls on their way to the scheduler; of the event loop's thread only."""

    def __init__(
        self,
        *,
        num_capacity: int,
        num_start_tokens: int,
        longest_wait_s: float,
        send: Callable[[TokenizedGenerateReqInput], None],
        priority_sign: int = 0,
    ) -> None:
        """With `priority_sign` 1, lower values of priority go first, with -1 higher ones; with 0 there are none."""
        self.admission = Admission(
            num_capacity=num_capacity, num_start_tokens=num_start_tokens, longest_wait_s=longest_wait_s
        )
        self._send = send
        self._priority_sign = priority_sign
        self._held_back: dict[str, TokenizedGenerateReqInput] = {}
        self._timer: asyncio.TimerHandle | None = None

    def pass_or_hold(self, call: TokenizedGenerateReqInput, session: str | None) -> None:
        """Send a call now, or once it need not wait."""
        assert call.input_ids is not None
        namespace = call.extra_key or ""
        known = Call(
            rid=str(call.rid),
            context=cut(call.input_ids, namespace),
            namespace=namespace,
            session=session,
            max_new_tokens=call.sampling_params.max_new_tokens or 0,
            priority=self._rank(call.priority),
        )
        if self.admission.arrive(known, _now()):
            self._send(call)
        else:
            self._held_back[known.rid] = call
            # It may be a small one, which waits behind nobody.
            self._send_taken()

    def _rank(self, priority: int | None) -> int:
        """Place of a priority, the highest first; as the scheduler has it, a call without one has the least."""
        if self._priority_sign == 0:
            return 0
        return _LEAST if priority is None else self._priority_sign * priority

    def note_output(self, rid: str, num_tokens: int) -> None:
        """A call's answer has so many tokens."""
        if self.admission.note_output(rid, num_tokens):
            self._send_taken()

    def end(self, rid: str, num_output: int) -> None:
        """A call is over, or its caller has gone; whoever need not wait any longer is sent."""
        self._held_back.pop(rid, None)
        self.admission.end(rid, num_output, _now())
        self._send_taken()

    def forget_kept(self) -> None:
        """The cache was emptied: nothing is kept for anybody."""
        self.admission.forget_kept()
        self._send_taken()

    def count_by_adapter(self) -> Counter[str]:
        """Calls that wait here, by the id of their adapter; "" for the base."""
        return Counter(call.lora_id or "" for call in self._held_back.values())

    def as_dict(self) -> AdmissionState:
        """What is said of it."""
        return part_of(AdmissionState, self.admission)

    def list_held(self, rids: Collection[str] | None) -> list[str]:
        """Those of ``rids`` that wait here; all that do for None."""
        return [rid for rid in self._held_back if rids is None or rid in rids]

    def _send_taken(self) -> None:
        if not self._held_back:
            return
        for rid in self.admission.take_waiting(_now()):
            self._send(self._held_back.pop(rid))
        self._look_later()

    def _look_later(self) -> None:
        if self._held_back and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        self._timer = None
        self._send_taken()


def _now() -> float:
    return asyncio.get_running_loop().time()
