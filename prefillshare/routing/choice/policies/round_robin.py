"""One prefill worker after the other."""

from collections.abc import Sequence

from prefillshare.routing.choice.policies.base import Candidate, Wanted


class RoundRobin:
    """Spreads calls evenly, whatever they hold."""

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, wanted: Wanted, candidates: Sequence[Candidate]) -> str:
        """Return the id of the next candidate."""
        self._turn += 1
        return candidates[self._turn % len(candidates)].id
