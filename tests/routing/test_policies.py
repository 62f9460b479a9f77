"""Which prefill worker each policy takes, and which decode replica."""

import math
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.config.router import Router
from prefillshare.routing.choice.chooser import choose_replica
from prefillshare.routing.choice.policies import Candidate, Wanted, make_policy
from prefillshare.routing.choice.policies.base import finish_s
from prefillshare.routing.choice.sessions import Sessions

POLICIES = get_args(get_type_hints(Router)["policy"])
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        id=st.uuids().map(str),
        num_running=st.integers(0, 5),
        matched_bytes=st.integers(0, 400),
        wait_s=st.floats(0, 10),
        tokens_per_s=st.floats(1, 1e5),
    ),
    min_size=1,
    max_size=5,
)


def _policy(name: str, sessions: Sessions | None = None):
    return make_policy(Router(policy=name, repin_margin_s=0.1), Sessions(10) if sessions is None else sessions)


def _workers(*matched: int, **fields: object) -> list[Candidate]:
    return [
        Candidate(id=f"p{number}", matched_bytes=length, tokens_per_s=1000.0, **fields)  # type: ignore[arg-type]
        for number, length in enumerate(matched)
    ]


@pytest.mark.parametrize("name", POLICIES)
@given(candidates=CANDIDATES, sessions=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_every_policy_takes_one_of_the_candidates(name, candidates, sessions) -> None:
    policy = _policy(name)
    for session in sessions:
        chosen = policy.choose(Wanted(session=session, prompt_bytes=400), candidates)
        assert chosen in {candidate.id for candidate in candidates}


@given(candidates=CANDIDATES, session=st.sampled_from([None, "a"]))
@settings(max_examples=200, deadline=None)
def test_following_a_prefix_never_costs_more_than_the_margin_and_what_would_be_prefilled_again(
    candidates, session
) -> None:
    wanted = Wanted(session=session, prompt_bytes=400)
    longest = max(c.matched_bytes for c in candidates)
    chosen_id = _policy("prefix_aware").choose(wanted, candidates)
    if longest > 100:
        chosen = next(c for c in candidates if c.id == chosen_id)
        for other in candidates:
            again_s = (longest - other.matched_bytes) / wanted.bytes_per_token / other.tokens_per_s
            assert finish_s(chosen, wanted) <= finish_s(other, wanted) + again_s + 0.1


def test_the_longest_prefix_is_followed() -> None:
    assert _policy("prefix_aware").choose(Wanted(prompt_bytes=400), _workers(0, 300, 200)) == "p1"


def test_a_short_common_beginning_draws_nothing() -> None:
    policy = _policy("prefix_aware")
    chosen = {policy.choose(Wanted(prompt_bytes=4000), _workers(100, 0, 0)) for _ in range(6)}
    assert chosen == {"p0", "p1", "p2"}


@pytest.mark.parametrize(
    ("busy_share", "longest_wait_s"),
    # A second to prefill again, and that second as often as others wait for it: 1 / (1 - share) times, 20 at most.
    [(0.0, 2.0), (0.5, 3.0), (0.75, 5.0), (1.0, 21.0)],
)
def test_waiting_longer_than_prefilling_again_moves_a_call(busy_share: float, longest_wait_s: float) -> None:
    wanted = Wanted(prompt_bytes=4000)  # 1000 tokens, a second's work
    idle = Candidate(id="idle", tokens_per_s=1000.0)
    met = [Candidate(id=str(number), wait_s=float(number < 4 * busy_share)) for number in range(4)]
    for wait_s, stays in ((longest_wait_s + 0.05, True), (longest_wait_s + 0.15, False)):
        policy = _policy("prefix_aware")
        for _ in range(400):
            policy.choose(Wanted(), met)
        holder = Candidate(id="holder", matched_bytes=4000, wait_s=wait_s, tokens_per_s=1000.0)
        assert policy.choose(wanted, [holder, idle]) == ("holder" if stays else "idle")


def test_calls_do_not_flee_between_busy_workers() -> None:
    """To be done half a second sooner is no reason to prefill a second's work again, for which others would wait."""
    wanted = Wanted(prompt_bytes=4000)
    holder = Candidate(id="holder", matched_bytes=4000, wait_s=2.0, tokens_per_s=1000.0)
    other = Candidate(id="other", wait_s=0.5, tokens_per_s=1000.0)
    assert _policy("prefix_aware").choose(wanted, [holder, other]) == "holder"


def test_with_a_store_a_call_moves_for_less_since_what_it_leaves_is_loaded() -> None:
    wanted = Wanted(prompt_bytes=4000)
    holder = Candidate(id="holder", matched_bytes=4000, wait_s=0.8, tokens_per_s=1000.0)
    for loadable_bytes, chosen in ((0, "holder"), (4000, "other")):
        other = Candidate(id="other", loadable_bytes=loadable_bytes, tokens_per_s=1000.0)
        assert _policy("prefix_aware").choose(wanted, [holder, other]) == chosen
    # Loading takes time as well: an idle holder keeps the call.
    idle = Candidate(id="holder", matched_bytes=4000, tokens_per_s=1000.0)
    other = Candidate(id="other", loadable_bytes=4000, tokens_per_s=1000.0)
    assert _policy("prefix_aware").choose(wanted, [other, idle]) == "holder"


@pytest.mark.parametrize("name", ["prefix_aware", "session"])
def test_a_session_keeps_its_worker(name: str) -> None:
    policy = _policy(name)
    wanted = Wanted(session="s", prompt_bytes=400)
    first = policy.choose(wanted, _workers(0, 0, 0))
    assert {policy.choose(wanted, _workers(0, 0, 0)) for _ in range(5)} == {first}


@pytest.mark.parametrize("name", ["prefix_aware", "session"])
def test_a_session_leaves_a_worker_that_is_gone_or_swamped(name: str) -> None:
    sessions = Sessions(10)
    policy = _policy(name, sessions)
    wanted = Wanted(session="s", prompt_bytes=400)
    first = policy.choose(wanted, _workers(0, 0))
    swamped = [Candidate(id=c.id, wait_s=60.0 if c.id == first else 0.0, tokens_per_s=1000.0) for c in _workers(0, 0)]
    second = policy.choose(wanted, swamped)
    assert second != first
    assert policy.choose(wanted, [c for c in _workers(0, 0) if c.id != second]) == first
    assert sessions.num_repins == 2


def test_round_robin_takes_turns() -> None:
    policy = _policy("round_robin")
    chosen = [policy.choose(Wanted(), _workers(400, 0, 0)) for _ in range(6)]
    assert sorted(chosen) == ["p0", "p0", "p1", "p1", "p2", "p2"]


def test_least_loaded_takes_the_least_loaded() -> None:
    workers = [Candidate(id="busy", num_running=3, matched_bytes=400), Candidate(id="idle", num_running=1)]
    assert _policy("least_loaded").choose(Wanted(prompt_bytes=400), workers) == "idle"


def test_sessions_are_bounded() -> None:
    sessions = Sessions(2)
    for name in ("a", "b"):
        sessions.pin(name, "p0")
    sessions.worker_of("a")
    sessions.pin("c", "p0")
    assert [sessions.worker_of(name) for name in "abc"] == ["p0", None, "p0"]
    sessions.forget("p0")
    assert len(sessions) == 0


@given(CANDIDATES, st.integers(0, 3))
def test_a_replica_has_little_load_and_of_these_the_longest_prefix(candidates: list[Candidate], slack: int) -> None:
    chosen = next(c for c in candidates if c.id == choose_replica(candidates, slack))
    loads = sorted(c.num_running for c in candidates)
    chance = math.sqrt(loads[(len(loads) - 1) // 2]) / 2
    light = [c for c in candidates if c.num_running <= loads[0] + int(slack * (1 + chance))]
    assert chosen in light
    assert chosen.matched_bytes == max(c.matched_bytes for c in light)


def _replicas(holder: Candidate, *num_running: int) -> list[Candidate]:
    return [holder, *(Candidate(id=f"d{number}", num_running=calls) for number, calls in enumerate(num_running))]


def test_of_many_replicas_one_that_is_idle_by_chance_draws_no_call_from_its_prefix() -> None:
    """The holder is as loaded as most are; the more replicas there are, the likelier one of them has nothing to do."""
    holder = Candidate(id="holder", num_running=4, matched_bytes=400)
    assert choose_replica(_replicas(holder, 0, 3, 3, *[4] * 10, 5, 5), slack=2) == "holder"
    assert choose_replica(_replicas(replace(holder, num_running=5), 0, 3, 3, *[4] * 10, 5, 5), slack=2) == "d0"


def test_without_slack_the_least_loaded_replica_is_taken() -> None:
    holder = Candidate(id="holder", num_running=100, matched_bytes=400)
    assert choose_replica(_replicas(holder, 99, *[100] * 10), slack=0) == "d0"


@pytest.mark.parametrize("calls", [8, 20, 100])
def test_a_replica_that_joins_has_most_of_its_part_before_the_prefix_of_all_others_counts(calls: int) -> None:
    others = [Candidate(id=f"d{number}", num_running=calls, matched_bytes=400) for number in range(20)]
    joined = Candidate(id="joined")
    while choose_replica([*others, joined], slack=2) == "joined":
        joined = replace(joined, num_running=joined.num_running + 1)
    assert calls / 3 < joined.num_running < calls
