"""What prefill workers hold beyond the prompts that the index knows: answers, computed before anybody asked.

The index matches bytes of prompts, and how an answer will look in the next prompt the router does not know: it passes
answers on unread, and a client may send them back in another form. But it knows for how many tokens an answer stands,
and that the session's next prompt goes on where the last one stopped. So these tokens, as bytes, are added to what the
worker is found to hold, if that is the whole of the last prompt; if it lost or flushed some of it, nothing is added.

    last prompt   |------- in the index -------|
    next prompt   |------- matched ------------|-- answer --|-- new --|
                                               +ahead_bytes
"""

from collections import OrderedDict
from dataclasses import dataclass

from prefillshare.routing.choice.demand import Demand
from prefillshare.routing.choice.matched import Matched


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    worker: str
    prompt_bytes: int
    ahead_bytes: int


class Ahead:
    """By session what its prefill worker holds beyond the last prompt; the longest unused session goes first."""

    def __init__(self, max_sessions: int) -> None:
        self._max_sessions = max_sessions
        self._held: OrderedDict[str, _Held] = OrderedDict()

    def note(self, session: str | None, worker: str, *, prompt_bytes: int, ahead_bytes: int) -> None:
        """Remember that `worker` holds so many bytes beyond the session's last prompt, which has `prompt_bytes`."""
        if session is None:
            return
        self._held[session] = _Held(worker=worker, prompt_bytes=prompt_bytes, ahead_bytes=ahead_bytes)
        self._held.move_to_end(session)
        if len(self._held) > self._max_sessions:
            self._held.popitem(last=False)

    def forget(self, session: str | None) -> None:
        """The session's next prompt is in the index itself."""
        if session is not None:
            self._held.pop(session, None)

    def add_to(self, matched: Matched, demand: Demand) -> Matched:
        """Return `matched` with what the session's worker holds ahead, at most the whole of the prompt."""
        held = None if demand.session is None else self._held.get(demand.session)
        if held is None or (length := matched.length_of(held.worker)) < held.prompt_bytes:
            return matched
        return matched.with_length(held.worker, min(length + held.ahead_bytes, demand.prompt_bytes))
