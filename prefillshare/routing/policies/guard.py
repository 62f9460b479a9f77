"""The load guard: when a call leaves the prefill worker that holds its prefix."""

from collections.abc import Sequence

from prefillshare.routing.policies.base import Candidate, Wanted, finish_s


def soonest(wanted: Wanted, candidates: Sequence[Candidate]) -> Candidate:
    """Return the candidate that would be done first; of equals, the least loaded one."""
    return min(candidates, key=lambda candidate: (finish_s(candidate, wanted), candidate.num_running))


def stay_or_leave(preferred: Candidate, wanted: Wanted, candidates: Sequence[Candidate], margin_s: float) -> Candidate:
    """Return `preferred` unless another one, prefilling what it lacks, would be done more than `margin_s` sooner."""
    other = soonest(wanted, candidates)
    return other if finish_s(other, wanted) + margin_s < finish_s(preferred, wanted) else preferred
