"""The contract of all policies.

A policy is pure but for the pins and turns that it remembers: it sees numbers, no connections and no clock.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from prefillshare.routing.choice.policies.base import Candidate, Wanted
from prefillshare.routing.choice.policies.fleet import Fleet, Scanned


class PrefillPolicy(ABC):
    """Chooses the prefill worker of a call."""

    @abstractmethod
    def choose_from(self, wanted: Wanted, fleet: Fleet) -> str:
        """Return the id of one worker of `fleet`."""

    def choose(self, wanted: Wanted, candidates: Sequence[Candidate]) -> str:
        """Return the id of one of `candidates`, of which there is at least one, having looked at each."""
        return self.choose_from(wanted, Scanned(candidates))
