"""What a policy knows when it chooses: the call, and each worker that could take it, in numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class Wanted:
    """The call for which a prefill worker is wanted."""

    session: str | None = None
    """Session that the client named."""
    prompt_bytes: int = 0
    """Length of the canonical prompt."""
    bytes_per_token: float = 4.0
    """Canonical prompt bytes that make one token."""


@dataclass(slots=True, kw_only=True)
class Candidate:
    """One prefill worker that could take the call.

    Not frozen, for there are some ten per call, and a frozen one takes three times as long to make.
    """

    id: str
    """Name of the worker."""
    num_running: int = 0
    """Calls that it has."""
    matched_bytes: int = 0
    """Length of the prompt's prefix that it holds."""
    loadable_bytes: int = 0
    """Length of the prompt's prefix that it can load from the deployment's store."""
    wait_s: float = 0.0
    """Estimated time until it is done with the calls that it has."""
    tokens_per_s: float = 1.0
    """Its prefill speed."""
    recent_tokens: float = 0.0
    """What it was given to prefill lately, done or not."""


LOAD_SPEEDUP = 4.0
"""How much faster a prefix is loaded from the store than prefilled. Workers measure it, and decline loads that are no
faster; the router only has to know that a move is much cheaper with a store than without."""


def known_bytes(candidate: Candidate) -> int:
    """Return the length of the prefix that `candidate` need not prefill: it holds it, or can load it."""
    held, loadable = candidate.matched_bytes, candidate.loadable_bytes
    return held if held > loadable else loadable


def finish_s(candidate: Candidate, wanted: Wanted) -> float:
    """Return the estimated time until `candidate` would be done with this call: its wait, then what it lacks."""
    known = known_bytes(candidate)
    missing_bytes = wanted.prompt_bytes - known
    load_bytes = known - candidate.matched_bytes
    work_tokens = (missing_bytes + load_bytes / LOAD_SPEEDUP) / wanted.bytes_per_token
    return candidate.wait_s + work_tokens / candidate.tokens_per_s


def most_calls(fewest: int, typical: int, slack: int) -> int:
    """Return how many calls a worker with little load has at most, by `decode_load_slack`.

    `fewest` is what the least loaded one has, `typical` what half of all have at most. Numbers of calls differ by
    chance, about by the root of what is typical, and of many workers the least loaded one has fewer by more. Without
    this allowance, the more replicas there were, the more often a call left the one that held its prefix.
    """
    return fewest + int(slack * (1 + math.sqrt(typical) / 2))


def typical_calls(candidates: Sequence[Candidate]) -> int:
    """Return how many calls half of `candidates` have at most."""
    return sorted(candidate.num_running for candidate in candidates)[(len(candidates) - 1) // 2]
