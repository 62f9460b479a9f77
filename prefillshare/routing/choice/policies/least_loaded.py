"""The prefill worker with the fewest calls; of equals, the one whose turn it is."""

from collections.abc import Sequence

from prefillshare.routing.choice.policies.base import Candidate, Wanted


class LeastLoaded:
    """Spreads calls by load alone."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, wanted: Wanted, candidates: Sequence[Candidate]) -> str:
        """Return the id of a candidate with the fewest running calls."""
        fewest = min(candidate.num_running for candidate in candidates)
        idle = [candidate for candidate in candidates if candidate.num_running == fewest]
        self._turn += 1
        return idle[self._turn % len(idle)].id
