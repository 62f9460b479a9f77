"""One prefill worker after the other."""

from prefillshare.routing.choice.policies.base import Wanted
from prefillshare.routing.choice.policies.fleet import Fleet
from prefillshare.routing.choice.policies.policy import PrefillPolicy


class RoundRobin(PrefillPolicy):
    """Spreads calls evenly, whatever they hold."""

    def __init__(self) -> None:
        self._turn = 0

    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of the next worker."""
        self._turn += 1
        return fleet.at_turn(self._turn).id
