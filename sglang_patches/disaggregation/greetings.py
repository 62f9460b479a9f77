"""A decode worker gets to know its prefill workers beside its steps: one that accepts and then stalls holds up the
calls that name it, and nobody else's.

The scheduler's thread begins a greeting and looks what became of it; a thread asks, and may be held up for as long as
it likes. What a greeting finds is noted by whoever makes it, so that the end of it is all that is looked for here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from prefillshare.beside import do_beside

logger = logging.getLogger(__name__)

Greet = Callable[[str], "str | None"]
"""Gets to know the worker at an address; why that must not be, or None. Raises OSError when nobody answers."""


@dataclass(slots=True)
class _Greeting:
    reply: Future[str | None] | None = None
    """None between two tries."""
    num_tries: int = 0
    """Those that ended without an answer."""
    due_at: float = 0.0
    """When it is tried next."""


class Greetings:
    """Those under way; for one thread."""

    def __init__(
        self, greet: Greet, *, pause_s: float, max_tries: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._greet = greet
        self._pause_s = pause_s
        self._max_tries = max_tries
        self._clock = clock
        self._by_address: dict[str, _Greeting] = {}

    def look(self, address: str) -> str | None:
        """Begin to greet the worker at ``address``, or see how far that is; why calls that name it must end, or None.

        None as well where it is known by now.
        """
        greeting = self._by_address.setdefault(address, _Greeting())
        if greeting.reply is None:
            if self._clock() >= greeting.due_at:
                greeting.reply = do_beside(lambda: self._greet(address), "greeting")
            return None
        if not greeting.reply.done():
            return None
        error = greeting.reply.exception()
        if error is None:
            del self._by_address[address]
            return greeting.reply.result()
        return self._note_failure(address, greeting, error)

    def forget_others(self, addresses: set[str]) -> None:
        """Forget those who did not answer, and whom no call names any more."""
        for address in self._by_address.keys() - addresses:
            # One that still stalls keeps its thread: a second one would not get further.
            reply = self._by_address[address].reply
            if reply is None or reply.done():
                del self._by_address[address]

    def _note_failure(self, address: str, greeting: _Greeting, error: BaseException) -> str | None:
        logger.warning("The prefill worker at %s does not say who it is: %s", address, error)
        greeting.reply, greeting.due_at = None, self._clock() + self._pause_s
        greeting.num_tries += 1
        if greeting.num_tries < self._max_tries:
            return None
        del self._by_address[address]
        return f"the prefill worker at {address} does not answer: see whether it runs"
