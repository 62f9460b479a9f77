"""The prefill worker with the fewest calls; of equals, the one whose turn it is."""

from prefillshare.routing.choice.policies.base import Wanted
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.policy import PrefillPolicy


class LeastLoaded(PrefillPolicy):
    """Spreads calls by load alone."""

    def __init__(self) -> None:
        self._turn = 0

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of a worker with the fewest running calls."""
        self._turn += 1
        return fleet.idlest_at_turn(self._turn).id
