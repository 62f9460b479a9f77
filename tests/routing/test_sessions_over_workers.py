"""What a policy does to whole loads: sessions over several prefill workers in simulated time, the real policy choosing.

A worker computes one prompt after the other and forgets nothing. The figures are tokens prefilled per unique token of
the sessions' prompts, and the time from a call to the end of its prefill.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from prefillshare.routing.choice.policies import Candidate, PrefillPolicy, Wanted
from prefillshare.routing.choice.policies.prefix_aware import PrefixAware
from prefillshare.routing.choice.policies.session import SessionPinned
from prefillshare.routing.choice.sessions import Sessions
from prefillshare.routing.workers.recent_work import RecentWork, Share

TOKENS_PER_S = 300.0
FIRST_TOKENS = (500, 1000, 2000)
NEW_TOKENS = 76
NUM_CALLS = (8, 16, 24)
NUM_SESSIONS = 200
MAX_AGAIN = 1.01
SATURATION = 0.125
"""Sessions per second at which one worker has as much to do as it can."""


@dataclass(slots=True)
class SimulatedWorker:
    """A prefill worker with a queue and a cache."""

    work: Share
    idle_at: float = 0.0
    num_tokens: int = 0
    held: dict[int, int] = field(default_factory=dict)

    def compute(self, now: float, session: int, tokens: int) -> tuple[float, int]:
        """When the prompt is prefilled, and how much of it had to be."""
        missing = tokens - self.held.get(session, 0)
        self.held[session] = tokens
        self.num_tokens += missing
        self.idle_at = max(now, self.idle_at) + missing / TOKENS_PER_S
        return self.idle_at, missing


@dataclass(slots=True, kw_only=True)
class Played:
    """What came of a load."""

    per_unique_token: float
    p95_s: float
    imbalance: float
    """Tokens of the busiest worker, of the mean."""


def play(policy: PrefillPolicy, num_workers: int, load: float, *, is_late: bool = False, seed: int = 1) -> Played:
    """Play sessions that arrive at `load` times what the workers can do; with `is_late`, all but one join late."""
    chance = random.Random(seed)
    work = RecentWork()
    workers = [SimulatedWorker(work.join()) for _ in range(num_workers)]
    order, arrival = itertools.count(), 0.0
    calls: list[tuple[float, int, int, int]] = []
    num_sessions = max(NUM_SESSIONS, 30 * num_workers)
    for session in range(num_sessions):
        arrival += chance.expovariate(SATURATION * num_workers * load)
        heapq.heappush(calls, (arrival, next(order), session, 0))
    first, length = ([chance.choice(options) for _ in range(num_sessions)] for options in (FIRST_TOKENS, NUM_CALLS))
    waits, num_prefilled = [], 0
    while calls:
        now, _, session, number = heapq.heappop(calls)
        tokens = first[session] + number * NEW_TOKENS
        present = workers[:1] if is_late and now < arrival / 3 else workers
        chosen = int(policy.choose(_wanted(session, tokens), [_see(w, i, now, session) for i, w in enumerate(present)]))
        done, computed = workers[chosen].compute(now, session, tokens)
        work.note(workers[chosen].work, computed)
        num_prefilled += computed
        waits.append(done - now)
        if number + 1 < length[session]:
            heapq.heappush(calls, (done + chance.uniform(0.5, 2.5), next(order), session, number + 1))
    num_unique = sum(tokens + (count - 1) * NEW_TOKENS for tokens, count in zip(first, length, strict=True))
    return Played(
        per_unique_token=num_prefilled / num_unique,
        p95_s=sorted(waits)[int(0.95 * len(waits))],
        imbalance=max(worker.num_tokens for worker in workers) * num_workers / num_prefilled,
    )


def _wanted(session: int, tokens: int) -> Wanted:
    return Wanted(session=str(session), prompt_bytes=tokens, bytes_per_token=1.0)


def _see(worker: SimulatedWorker, number: int, now: float, session: int) -> Candidate:
    return Candidate(
        id=str(number),
        matched_bytes=worker.held.get(session, 0),
        wait_s=max(0.0, worker.idle_at - now),
        tokens_per_s=TOKENS_PER_S,
        recent_tokens=worker.work.tokens,
    )


class NeverLeaves:
    """Sessions take turns at their first call, and stay for ever."""

    def __init__(self) -> None:
        self._pins: dict[str | None, str] = {}

    def choose(self, wanted: Wanted, candidates: list[Candidate]) -> str:
        return self._pins.setdefault(wanted.session, candidates[len(self._pins) % len(candidates)].id)


POLICIES: dict[str, Callable[[], PrefillPolicy]] = {
    "prefix_aware": lambda: PrefixAware(Sessions(10_000), margin_s=0.05),
    "session": lambda: SessionPinned(Sessions(10_000), margin_s=0.05),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("num_workers", [2, 3])
@pytest.mark.parametrize("load", [0.25, 0.5, 0.8, 1.0, 1.25, 2.0])
def test_what_others_hold_is_hardly_prefilled_again(name: str, num_workers: int, load: float) -> None:
    played = [play(POLICIES[name](), num_workers, load, seed=seed) for seed in range(3)]
    assert sum(each.per_unique_token for each in played) / len(played) <= MAX_AGAIN


@pytest.mark.parametrize("load", [0.5, 0.8, 1.0])
def test_sessions_leave_a_worker_for_those_that_join(load: float) -> None:
    """All sessions of the first third began at one worker of three: staying there would be worse for them."""
    seeds = range(4)
    stayed = [play(NeverLeaves(), 3, load, is_late=True, seed=seed).p95_s for seed in seeds]
    left = [play(POLICIES["prefix_aware"](), 3, load, is_late=True, seed=seed).p95_s for seed in seeds]
    assert sum(left) < sum(stayed)


@pytest.mark.parametrize("name", POLICIES)
def test_many_workers_share_the_work_evenly(name: str) -> None:
    played = play(POLICIES[name](), 32, 0.85)
    assert played.imbalance < 1.1
    assert played.per_unique_token <= MAX_AGAIN
