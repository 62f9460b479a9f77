"""What stands before a worker where cores are shared: detokenizer, HTTP, router and client, which bring tokens out.

It takes everything that its engine has left since it last looked, one piece per sequence: so a machine that is short of
cores sends fewer and longer pieces, and spends less on them.
"""

import asyncio
from typing import Protocol

from prefillshare.simulation.clock import now_s
from prefillshare.simulation.engine.cores import Cores


class Receiver(Protocol):
    """Whoever tokens are for."""

    def receive(self, times: list[float]) -> None:
        """Take tokens that came at these times."""


class Front:
    """Sends tokens of one worker."""

    def __init__(self, cores: Cores, piece_s: float) -> None:
        self._cores = cores
        self._piece_s = piece_s
        self._unsent: dict[Receiver, int] = {}
        self._sending: asyncio.Task[None] | None = None

    def send(self, receiver: Receiver, num_tokens: int) -> None:
        """Bring so many tokens to `receiver`, as soon as there is time."""
        self._unsent[receiver] = self._unsent.get(receiver, 0) + num_tokens
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())

    async def _send_all(self) -> None:
        while self._unsent:
            taken, self._unsent = self._unsent, {}
            await self._cores.run(self._piece_s * len(taken))
            for receiver, num_tokens in taken.items():
                receiver.receive([now_s()] * num_tokens)
