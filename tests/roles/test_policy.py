"""Decisions about roles: within the limits whatever is measured, settled under a constant load, rare under swings.

The clock and the deployment are the test's; nothing else is.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefillshare.config import Limits, Roles
from prefillshare.roles import Kind, Look, Move, Policy, PoolLook, WorkerLook

KINDS: tuple[Kind, ...] = (None, "math", "tool")
ROLES = Roles(follow_load=True, window_s=10.0, interval_s=1.0, cool_down_s=30.0, busy_calls=8)
HOUR_S = 3600


@dataclass(slots=True)
class Fleet:
    """Workers that take a move's seconds to change, and one look at them per second."""

    policy: Policy
    kinds: dict[str, Kind]
    move_s: float = 5.0
    now: float = 0.0
    moves: list[Move] = field(default_factory=list)
    moved_at: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, roles: Roles, sizes: Mapping[Kind, int]) -> "Fleet":
        """A fleet with so many workers of each kind."""
        kinds = {f"{kind}-{number}": kind for kind, size in sizes.items() for number in range(size)}
        return cls(Policy(roles.with_places(32)), kinds)

    def size(self, kind: Kind) -> int:
        """How many workers of a kind there are."""
        return sum(found == kind for found in self.kinds.values())

    def sizes(self) -> dict[Kind, int]:
        """How many of each kind."""
        return {kind: self.size(kind) for kind in KINDS}

    def look(self, waits: Mapping[Kind, float], calls: Mapping[Kind, float], away: str | None = None) -> Look:
        """What is measured when the calls of a kind are spread evenly over its workers."""
        return {
            kind: PoolLook(
                wait_s=waits.get(kind, 0.0),
                workers=tuple(
                    WorkerLook(
                        id=name,
                        is_up=name != away,
                        calls=_share(calls.get(kind, 0.0), self.size(kind), number),
                        age_s=self.now,
                        can_move=True,
                    )
                    for number, name in enumerate(sorted(name for name in self.kinds if self.kinds[name] == kind))
                ),
            )
            for kind in KINDS
        }

    def step(self, look: Look, has_failed: bool = False) -> Move | None:
        """Look once, and carry out what is decided."""
        self.now += 1.0
        self.policy.observe(self.now, look)
        move = self.policy.decide(self.now)
        if move is not None:
            assert self.kinds[move.worker] == move.before != move.after
            self.now += self.move_s
            if not has_failed:
                self.kinds[move.worker] = move.after
            self.moves.append(move)
            self.moved_at.append(self.now)
            self.policy.ended(self.now, move, seconds=None if has_failed else self.move_s)
        return move

    def run(self, seconds: int, load: Callable[[float, "Fleet"], tuple[Mapping[Kind, float], Mapping[Kind, float]]]):
        """Run under a load, which is a function of time and of who is there."""
        until = self.now + seconds
        while self.now < until:
            self.step(self.look(*load(self.now, self)))


def _share(calls: float, number: int, which: int) -> int:
    whole, over = divmod(round(calls), max(1, number))
    return whole + (which < over)


def waits_of(calls: Mapping[Kind, float], fleet: Fleet) -> dict[Kind, float]:
    """Calls wait where there are more than a worker takes: one prompt at a time, 16 answers."""
    room = {kind: 1 if kind is None else 16 for kind in KINDS}
    return {kind: max(0.0, calls.get(kind, 0.0) / fleet.size(kind) - room[kind]) for kind in KINDS}


CALLS = st.fixed_dictionaries({kind: st.integers(min_value=0, max_value=80) for kind in KINDS})
SIZES = st.fixed_dictionaries({kind: st.integers(min_value=1, max_value=5) for kind in KINDS})


@settings(deadline=None)
@given(
    sizes=SIZES,
    slack=st.fixed_dictionaries({kind: st.tuples(st.integers(0, 4), st.integers(0, 4)) for kind in KINDS}),
    loads=st.lists(st.tuples(CALLS, st.booleans()), min_size=1, max_size=8),
)
def test_numbers_stay_within_the_limits_whatever_is_measured(sizes, slack, loads):
    limits = {
        kind: Limits(min=max(1, sizes[kind] - low), max=sizes[kind] + high) for kind, (low, high) in slack.items()
    }
    modules = {kind: found for kind, found in limits.items() if kind is not None}
    roles = Roles(follow_load=True, window_s=4.0, interval_s=1.0, cool_down_s=0, prefill=limits[None], modules=modules)
    fleet = Fleet.of(roles, sizes)
    for calls, has_failed in loads:
        for _ in range(12):
            fleet.step(fleet.look(waits_of(calls, fleet), calls), has_failed)
            assert all(limits[kind].min <= fleet.size(kind) <= limits[kind].max for kind in KINDS)
    assert sum(fleet.sizes().values()) == sum(sizes.values())


@settings(max_examples=25, deadline=None)
@given(sizes=SIZES, calls=CALLS)
def test_a_constant_load_is_settled_for(sizes, calls):
    """No worker ever goes back to where one came from, and when all have gone that help, nothing moves any more."""
    fleet = Fleet.of(ROLES, sizes)
    fleet.run(HOUR_S // 4, lambda now, fleet: (waits_of(calls, fleet), calls))
    takers, givers = {move.after for move in fleet.moves}, {move.before for move in fleet.moves}
    assert not takers & givers
    assert len(fleet.moves) <= sum(sizes.values()) - len(KINDS)


@settings(max_examples=15, deadline=None)
@given(sizes=st.fixed_dictionaries({kind: st.integers(min_value=2, max_value=4) for kind in KINDS}), data=st.data())
def test_a_pool_in_need_gets_a_worker_of_an_idle_one(sizes, data):
    needy = data.draw(st.sampled_from(KINDS))
    calls: dict[Kind, float] = {needy: 400.0}
    fleet = Fleet.of(ROLES, sizes)
    fleet.run(int(2 * ROLES.window_s), lambda now, fleet: (waits_of(calls, fleet), calls))
    assert [move.after for move in fleet.moves] == [needy]
    fleet.run(HOUR_S // 4, lambda now, fleet: (waits_of(calls, fleet), calls))
    assert all(fleet.size(kind) == 1 for kind in KINDS if kind != needy)


def test_a_short_burst_moves_nobody():
    fleet = Fleet.of(ROLES, dict.fromkeys(KINDS, 3))
    burst: dict[Kind, float] = {"math": 400.0}

    def load(now: float, fleet: Fleet) -> tuple[Mapping[Kind, float], Mapping[Kind, float]]:
        calls = burst if now % 30 < ROLES.window_s - 2 else {}
        return waits_of(calls, fleet), calls

    fleet.run(HOUR_S, load)
    assert fleet.moves == []


@pytest.mark.parametrize("period_s", [60, 120, 300])
def test_a_load_that_swings_moves_workers_less_and_less(period_s):
    """Each swing is long enough to ask for a move; that they undo each other makes the pauses longer."""
    fleet = Fleet.of(ROLES, dict.fromkeys(KINDS, 3))

    def load(now: float, fleet: Fleet) -> tuple[Mapping[Kind, float], Mapping[Kind, float]]:
        calls: dict[Kind, float] = {"math" if now // (period_s / 2) % 2 else "tool": 200.0, None: 0.0}
        return waits_of(calls, fleet), calls

    fleet.run(4 * HOUR_S, load)
    half = 2 * HOUR_S
    first, second = sum(at <= half for at in fleet.moved_at), sum(at > half for at in fleet.moved_at)
    assert len(fleet.moves) > 0
    assert second <= first
    assert len(fleet.moves) * fleet.move_s < 0.03 * 4 * HOUR_S


def test_a_pool_without_anybody_gets_a_worker_when_that_lasts():
    """Who was the last one there came back as what it was started for; the others are not even calm."""
    fleet = Fleet.of(ROLES, {None: 1, "math": 3, "tool": 1})
    calls = {"math": 30.0, "tool": 2.0}
    fleet.step(fleet.look({}, calls))
    del fleet.kinds["None-0"]
    while fleet.now < 300 and fleet.step(fleet.look({}, calls)) is None:
        pass
    assert [(move.before, move.after) for move in fleet.moves] == [("math", None)]
    assert ROLES.cool_down_s <= fleet.now - fleet.move_s
    fleet.run(600, lambda now, fleet: ({}, calls))
    assert fleet.sizes() == {None: 1, "math": 2, "tool": 1}


def test_a_module_for_which_nobody_was_ever_started_is_not_missed():
    """Nor is whoever is still to come when a deployment starts."""
    for sizes in ({None: 2, "math": 2, "tool": 0}, {None: 0, "math": 3, "tool": 1}):
        fleet = Fleet.of(ROLES, sizes)
        fleet.run(600, lambda now, fleet: ({}, {}))
        assert fleet.moves == []


def test_a_module_whose_workers_are_away_for_long_gets_another_one_but_for_its_limit():
    for limits, expected in ((Limits(min=1), {None: 1, "math": 2, "tool": 2}), (Limits(max=1), None)):
        fleet = Fleet.of(replace(ROLES, modules={"tool": limits}), {None: 1, "math": 3, "tool": 1})
        start = fleet.sizes()
        fleet.step(fleet.look({}, {}))
        while fleet.now < 300 and fleet.step(fleet.look({}, {"math": 30.0}, away="tool-0")) is None:
            pass
        assert fleet.sizes() == (expected or start)


def test_a_worker_that_was_needed_for_long_is_no_swing_when_it_goes_back():
    """The next worker follows after a pause that is not doubled."""
    fleet = Fleet.of(ROLES, {None: 1, "math": 4, "tool": 1})
    fleet.run(400, lambda now, fleet: (waits_of({"tool": 40.0}, fleet), {"tool": 40.0}))
    assert fleet.size("tool") > 2
    until, count = fleet.now, len(fleet.moves)
    fleet.run(200, lambda now, fleet: (waits_of({"math": 60.0}, fleet), {"math": 60.0}))
    back = fleet.moved_at[count:]
    assert len(back) >= 2
    assert back[1] - back[0] < 2 * ROLES.cool_down_s
    assert back[0] - until < ROLES.cool_down_s


def test_a_worker_that_comes_back_is_no_load():
    """One of two is away, and calls pile up at the other: it is being started again already."""
    fleet = Fleet.of(ROLES, {None: 3, "math": 2, "tool": 3})
    calls: dict[Kind, float] = {"math": 60.0}
    for _ in range(100):
        assert fleet.step(fleet.look(waits_of(calls, fleet), calls, away="math-0")) is None
    # It is back; what was measured meanwhile does not count.
    for _ in range(int(ROLES.window_s)):
        assert fleet.step(fleet.look(waits_of(calls, fleet), calls)) is None
    assert fleet.step(fleet.look(waits_of(calls, fleet), calls)) is not None


def test_what_failed_is_tried_again_after_ever_longer_pauses():
    fleet = Fleet.of(ROLES, {None: 1, "math": 1, "tool": 2})
    calls: dict[Kind, float] = {"math": 60.0}
    while len(fleet.moves) < 5:
        fleet.step(fleet.look(waits_of(calls, fleet), calls), has_failed=True)
    pauses = [later - sooner for sooner, later in pairwise(fleet.moved_at)]
    assert all(later > sooner for sooner, later in pairwise(pauses))


def test_a_move_that_takes_long_is_followed_by_a_long_pause():
    fleet = Fleet.of(ROLES, {None: 1, "math": 1, "tool": 6})
    fleet.move_s = 200.0
    calls: dict[Kind, float] = {"math": 600.0}
    fleet.run(2 * HOUR_S, lambda now, fleet: (waits_of(calls, fleet), calls))
    gaps = [later - sooner for sooner, later in pairwise(fleet.moved_at)]
    assert gaps
    assert all(gap > 3 * fleet.move_s for gap in gaps[1:])


def test_a_worker_without_a_supervisor_that_could_move_it_stays():
    fleet = Fleet.of(ROLES, {None: 1, "math": 1, "tool": 3})
    for _ in range(60):
        look = fleet.look({"math": 9.0}, {"math": 60.0})
        fixed = {
            kind: PoolLook(
                wait_s=pool.wait_s,
                workers=tuple(
                    WorkerLook(id=worker.id, is_up=True, calls=worker.calls, age_s=9.0, can_move=worker.id == "tool-1")
                    for worker in pool.workers
                ),
            )
            for kind, pool in look.items()
        }
        if (move := fleet.step(fixed)) is not None:
            assert move.worker == "tool-1"
            return
    pytest.fail("nothing was moved")
