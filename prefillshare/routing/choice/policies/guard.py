"""The load guard: when a call leaves the prefill worker that holds its prefix."""

from collections.abc import Sequence

from prefillshare.routing.choice.policies.base import Candidate, Wanted, finish_s, known_bytes


def stay_or_leave(preferred: Candidate, wanted: Wanted, candidates: Sequence[Candidate], margin_s: float) -> Candidate:
    """Return `preferred` unless another one would be done more than `margin_s` sooner, at a fair price for all.

    The price is what the other one prefills again although `preferred` holds it. Where workers are busy, other calls
    wait for that; it counts once more, times the share of workers that have something to do. Without it, calls that
    flee from each other's queues make all queues longer.
    """
    busy = sum(candidate.wait_s > 0 for candidate in candidates) / len(candidates)

    def cost_s(candidate: Candidate) -> float:
        again_tokens = max(0, preferred.matched_bytes - known_bytes(candidate)) / wanted.bytes_per_token
        return finish_s(candidate, wanted) + busy * again_tokens / candidate.tokens_per_s

    other = min(candidates, key=lambda candidate: (cost_s(candidate), candidate.num_running))
    return other if cost_s(other) + margin_s < cost_s(preferred) else preferred
