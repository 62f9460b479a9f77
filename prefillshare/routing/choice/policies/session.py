"""A session keeps its prefill worker; calls without a session are spread by load. The index is not asked."""

from collections.abc import Sequence
from dataclasses import replace

from prefillshare.routing.choice.policies.base import Candidate, Wanted, find
from prefillshare.routing.choice.policies.guard import LoadGuard
from prefillshare.routing.choice.policies.least_loaded import LeastLoaded
from prefillshare.routing.choice.sessions import Sessions


class SessionPinned:
    """Pins sessions, guarded against load."""

    def __init__(self, sessions: Sessions, *, margin_s: float) -> None:
        self._sessions = sessions
        self._guard = LoadGuard(margin_s)
        self._spread = LeastLoaded()

    def choose(self, wanted: Wanted, candidates: Sequence[Candidate]) -> str:
        """Return the id of the session's worker, or of a lightly loaded one, and pin the session to it."""
        pinned = find(candidates, self._sessions.worker_of(wanted.session))
        if pinned is None:
            chosen = self._spread.choose(wanted, candidates)
        else:
            # The pinned worker is taken to hold the whole prompt, the others nothing of it.
            others = [replace(other, matched_bytes=0) for other in candidates if other.id != pinned.id]
            held = replace(pinned, matched_bytes=wanted.prompt_bytes)
            chosen = self._guard.stay_or_leave(held, wanted, [held, *others]).id
        self._guard.note_load(candidates)
        self._sessions.pin(wanted.session, chosen)
        return chosen
