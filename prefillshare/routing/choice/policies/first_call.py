"""The prefill worker of a call that follows nothing: where its session will be at home.

A session's later calls go where its first one went. The worker with the fewest calls at that moment is a bad home: of
many workers one is always idle by chance, and those that serve many sessions are so as often as others. So a session
goes to the worker that had the least work lately. A call without a session has no later ones and goes where it waits
least.
"""

from prefillshare.routing.choice.policies.base import Wanted
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.least_loaded import LeastLoaded
from prefillshare.routing.choice.policies.policy import PrefillPolicy


class FirstCall(PrefillPolicy):
    """Spreads sessions by work, other calls by load."""

    def __init__(self) -> None:
        self._spread = LeastLoaded()

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of the worker with the least work lately, or for a single call with the fewest calls."""
        return self._spread.choose_from(wanted, fleet) if wanted.session is None else fleet.least_worked().id
