"""Which replica of a decode module takes a call."""

from collections.abc import Sequence

from prefillshare.routing.choice.policies.base import Candidate


def choose_replica(candidates: Sequence[Candidate], slack: int) -> str:
    """Return the id of the replica that holds the longest prefix among those with little load.

    Little is at most `slack` calls more than the least loaded one has: holding the prefix saves the transfer of it,
    which is worth a slightly larger decode batch, but not an uneven load. Of equals the least loaded one is taken.
    """
    fewest = min(candidate.num_running for candidate in candidates)
    light = [candidate for candidate in candidates if candidate.num_running <= fewest + slack]
    return max(light, key=lambda candidate: (candidate.matched_bytes, -candidate.num_running)).id
