"""The engine of a module that computes its prompts itself: it prefills and decodes, and its KV is nobody else's.

What makes it slow is not its backlog alone, as of a prefill worker, but every call that it has. So a call goes where
its session's KV is, else to the longest prefix, unless that engine has clearly more calls than another one.
"""

from prefillshare.routing.choice.policies.base import Wanted, most_calls
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.policy import PrefillPolicy
from prefillshare.routing.choice.policies.prefix_aware import find_longest
from prefillshare.routing.choice.sessions import Sessions


class WholeCalls(PrefillPolicy):
    """Pins sessions, else follows the longest prefix; guards both by the number of calls."""

    def __init__(self, sessions: Sessions, *, slack: int) -> None:
        """`slack` says how many calls more than the least loaded one an engine may have that holds the prefix."""
        self.sessions = sessions
        self._slack = slack
        self._turn = 0

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of the chosen engine and pin the session to it."""
        self._turn += 1
        idlest = fleet.idlest_at_turn(self._turn)
        preferred = fleet.get(self.sessions.worker_of(wanted.session)) or find_longest(wanted, fleet)
        most = most_calls(idlest.num_running, fleet.typical_calls, self._slack)
        chosen = preferred if preferred is not None and preferred.num_running <= most else idlest
        self.sessions.pin(wanted.session, chosen.id)
        return chosen.id
