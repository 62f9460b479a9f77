"""A session keeps its prefill worker; new sessions are spread by work, other calls by load. The index is not asked."""

from dataclasses import replace

from prefillshare.routing.choice.policies.base import Candidate, Wanted
from prefillshare.routing.choice.policies.first_call import FirstCall
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.guard import LoadGuard
from prefillshare.routing.choice.policies.policy import PrefillPolicy
from prefillshare.routing.choice.sessions import Sessions


class SessionPinned(PrefillPolicy):
    """Pins sessions, guarded against load."""

    def __init__(self, sessions: Sessions, *, margin_s: float) -> None:
        self._sessions = sessions
        self._guard = LoadGuard(margin_s)
        self._first = FirstCall()

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of the session's worker, or of one for its first call, and pin the session to it."""
        pinned = fleet.get(self._sessions.worker_of(wanted.session))
        if pinned is None:
            chosen = self._first.choose_from(wanted, fleet)
        else:
            # The pinned worker is taken to hold the whole prompt, the others nothing of it.
            held = replace(pinned, matched_bytes=wanted.prompt_bytes)
            chosen = self._guard.stay_or_leave(held, wanted, fleet, see=_see_without_prefix).id
        self._guard.note_load(fleet)
        self._sessions.pin(wanted.session, chosen)
        return chosen


def _see_without_prefix(other: Candidate) -> Candidate:
    return replace(other, matched_bytes=0)
