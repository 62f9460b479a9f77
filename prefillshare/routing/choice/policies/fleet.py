"""The workers among which a policy chooses, as questions: who holds most, who has the fewest calls, who is cheapest.

`Scanned` answers them by looking at every worker: the plain meaning of each question. The router asks `Ranked`
(`choice/ranked.py`), which gives the same answers and looks at few workers however many there are.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

from prefillshare.routing.choice.policies.base import Candidate, typical_calls

Cost = Callable[[Candidate], float]
"""What a call would cost at a worker: no less after a longer wait, no more with a higher speed or with more of the
prompt held or loadable. Who ranks workers relies on it: none is cheaper that is no better in any of these."""


class Fleet(Protocol):
    """At least one worker that could take the call."""

    def __len__(self) -> int: ...

    @property
    def num_busy(self) -> int:
        """How many have work to do."""
        ...

    @property
    def typical_calls(self) -> int:
        """How many calls half of them have at most."""
        ...

    def get(self, worker_id: str | None) -> Candidate | None:
        """Return the worker of that id."""
        ...

    def at_turn(self, turn: int) -> Candidate:
        """Return the worker whose turn it is, one after the other in the order in which they joined."""
        ...

    def idlest_at_turn(self, turn: int) -> Candidate:
        """Return, of those with the fewest calls, the one whose turn it is."""
        ...

    def least_worked(self) -> Candidate:
        """Return who had the least work lately, of those that do not wait much longer than others; `longest_wait_s`."""
        ...

    def longest(self) -> Candidate | None:
        """Return who holds the longest prefix; of equals the one that waits least, then the one with fewest calls.

        None, or one that holds nothing, when nobody holds any.
        """
        ...

    def cheapest(self, cost_s: Cost, is_worth: Callable[[float], bool]) -> Candidate | None:
        """Return who costs least, of equals the one with fewest calls; None, or any, where `is_worth` no cost there is.

        What is worth it at one cost must be so at every lower one.
        """
        ...


def longest_wait_s(first: Candidate, fleet: Fleet) -> float:
    """Return how long a worker may wait to become a session's home, where `first` waits least.

    While most are idle no longer than `first`; else longer by the time that all takes which `first` was given lately.
    """
    recent_s = first.recent_tokens / first.tokens_per_s if 2 * fleet.num_busy > len(fleet) else 0.0
    return first.wait_s + recent_s


class Scanned:
    """Looks at every worker for each question."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._candidates = candidates

    def __len__(self) -> int:
        return len(self._candidates)

    @property
    def num_busy(self) -> int:
        """How many have work to do."""
        return sum(candidate.wait_s > 0 for candidate in self._candidates)

    @property
    def typical_calls(self) -> int:
        """How many calls half of them have at most."""
        return typical_calls(self._candidates)

    def get(self, worker_id: str | None) -> Candidate | None:
        """Return the worker of that id."""
        return next((candidate for candidate in self._candidates if candidate.id == worker_id), None)

    def at_turn(self, turn: int) -> Candidate:
        """Return the worker whose turn it is."""
        return self._candidates[turn % len(self._candidates)]

    def idlest_at_turn(self, turn: int) -> Candidate:
        """Return, of those with the fewest calls, the one whose turn it is."""
        fewest = min(candidate.num_running for candidate in self._candidates)
        idle = [candidate for candidate in self._candidates if candidate.num_running == fewest]
        return idle[turn % len(idle)]

    def least_worked(self) -> Candidate:
        """Return who had the least work lately, of those that do not wait much longer than others."""
        first = min(self._candidates, key=lambda candidate: (candidate.wait_s, candidate.num_running))
        limit_s = longest_wait_s(first, self)
        near = [candidate for candidate in self._candidates if candidate.wait_s <= limit_s]
        return min(near, key=lambda candidate: candidate.recent_tokens)

    def longest(self) -> Candidate | None:
        """Return who holds the longest prefix."""
        return max(self._candidates, key=lambda held: (held.matched_bytes, -held.wait_s, -held.num_running))

    def cheapest(self, cost_s: Cost, is_worth: Callable[[float], bool]) -> Candidate | None:
        """Return who costs least."""
        return min(self._candidates, key=lambda candidate: (cost_s(candidate), candidate.num_running))
