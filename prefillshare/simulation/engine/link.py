"""A worker's link: KV of several prompts moves at a time, and each gets an equal part of what the link can carry.

A prefill worker sends to several decode workers at once (SGLang: a thread and a queue for each of
`SGLANG_DISAGGREGATION_QUEUE_SIZE` groups of them, disaggregation/nixl/conn.py), and a decode worker gets whatever is
sent to it. Neither keeps the other from its further work. So a move gets on by the smaller of the parts that its two
ends have for it:

    speed    bytes_per_s / max(moves of the sender, moves of the receiver)

To take both ends for one prompt at a time, in the order of arrival, is no model of that: a sender that waits for one
receiver is kept from all others, the receivers that it would have had next are kept from theirs, and the chains of
those who wait for each other grow with the number of workers, at half of the load that each link could carry.
"""

import asyncio
from dataclasses import dataclass

from prefillshare.simulation.clock import now_s
from prefillshare.simulation.model import HandoffModel


class Link:
    """One end of moves."""

    def __init__(self) -> None:
        self.busy_s = 0.0
        """Time in which something moved."""
        self.moves: dict[_Move, None] = {}
        """What moves here now, in the order in which it began."""
        self._busy_since_s = 0.0

    def begin(self, move: "_Move") -> None:
        """One more move."""
        if not self.moves:
            self._busy_since_s = now_s()
        self.moves[move] = None

    def end(self, move: "_Move") -> None:
        """One move less."""
        del self.moves[move]
        if not self.moves:
            self.busy_s += now_s() - self._busy_since_s


@dataclass(slots=True, eq=False, kw_only=True)
class _Move:
    """KV of one prompt on its way."""

    sender: Link
    receiver: Link
    left_s: float
    """Time that it takes from `paced_at_s` on, if both ends are its own."""
    done: "asyncio.Future[None]"
    speed: float = 0.0
    """Its part of the slower end."""
    paced_at_s: float = 0.0
    timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.sender.begin(self)
        self.receiver.begin(self)
        self._pace_all()

    def _end(self) -> None:
        self.sender.end(self)
        self.receiver.end(self)
        self.done.set_result(None)
        self._pace_all()

    def _pace_all(self) -> None:
        """Whatever has an end in common with this move gets another part of it now."""
        for move in self.sender.moves | self.receiver.moves:
            move.pace()

    def pace(self) -> None:
        """Go on as fast as both ends allow now."""
        speed = 1 / max(len(self.sender.moves), len(self.receiver.moves))
        if speed == self.speed:
            return
        if self.timer is not None:
            self.timer.cancel()
        now = now_s()
        self.left_s = max(0.0, self.left_s - (now - self.paced_at_s) * self.speed)
        self.speed, self.paced_at_s = speed, now
        self.timer = asyncio.get_running_loop().call_later(self.left_s / speed, self._end)


async def hand_off(model: HandoffModel, sender: Link, receiver: Link, num_tokens: int) -> None:
    """Move the KV of so many tokens beside whatever else moves at these ends."""
    if not num_tokens:
        return
    seconds = num_tokens * model.kv_token_bytes / model.bytes_per_s
    move = _Move(sender=sender, receiver=receiver, left_s=seconds, done=asyncio.get_running_loop().create_future())
    move.begin()
    await move.done
    await asyncio.sleep(model.latency_s)
