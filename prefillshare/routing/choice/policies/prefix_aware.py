"""The prefill worker that holds the prompt's longest prefix, unless waiting for it costs more than prefilling again.

A session keeps its worker. A call without a session, and a session's first call, goes where the longest prefix is,
when that is a good part of the prompt; a shared system prompt alone does not draw every call to one worker.
"""

from prefillshare.routing.choice.policies.base import Candidate, Wanted
from prefillshare.routing.choice.policies.first_call import FirstCall
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.guard import LoadGuard
from prefillshare.routing.choice.policies.policy import PrefillPolicy
from prefillshare.routing.choice.sessions import Sessions

MIN_MATCHED_SHARE = 0.25
"""Smallest part of the prompt that must be held somewhere for the call to be drawn there."""


class PrefixAware(PrefillPolicy):
    """Pins sessions, else follows the longest prefix; guards both against load."""

    def __init__(self, sessions: Sessions, *, margin_s: float) -> None:
        self._sessions = sessions
        self._guard = LoadGuard(margin_s)
        self._first = FirstCall()

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of the chosen worker and pin the session to it."""
        preferred = fleet.get(self._sessions.worker_of(wanted.session)) or find_longest(wanted, fleet)
        if preferred is None:
            chosen = self._first.choose_from(wanted, fleet)
        else:
            chosen = self._guard.stay_or_leave(preferred, wanted, fleet).id
        self._guard.note_load(fleet)
        self._sessions.pin(wanted.session, chosen)
        return chosen


def find_longest(wanted: Wanted, fleet: Fleet) -> Candidate | None:
    """Return who holds the longest prefix, if that is a good part of the prompt."""
    best = fleet.longest()
    return best if best is not None and best.matched_bytes > MIN_MATCHED_SHARE * wanted.prompt_bytes else None
