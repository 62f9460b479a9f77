"""Leases of prompts: bounded by owner and in all, over in time, and carried along when nodes split and go."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_patches.prefill.leases import KeptLast, Leases, owner_of
from tests.support.clock import Clock

POOL = 400
TENANT = "tenant:" + "a" * 32 + ":"
OTHER = "tenant:" + "b" * 32 + ":"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(POOL, clock)


def node(id: int, num_tokens: int, used_at: float = 0.0) -> Any:
    return SimpleNamespace(id=id, key=[0] * num_tokens, last_access_time=used_at)


def kept(leases: Leases, *nodes: Any) -> list[bool]:
    return [leases.is_kept(each) for each in nodes]


def test_a_lease_ends_in_time_and_the_latest_end_counts(leases: Leases, clock: Clock) -> None:
    one = node(1, 10)
    leases.add([one], None, 300)
    leases.add([one], None, 5)
    clock.now = 299
    assert leases.is_kept(one)
    clock.now = 301
    assert not leases.is_kept(one)
    leases.add([node(2, 10)], None, 5)
    assert len(leases) == 1
    assert leases.count_tokens() == 10
    clock.now = 400
    assert leases.count_tokens() == 0


def test_an_owner_that_wants_more_than_its_share_gives_up_its_own(leases: Leases) -> None:
    others, first, second, third = node(1, 90), node(2, 40), node(3, 40), node(4, 40)
    leases.add([others], OTHER, 300)
    for each in (first, second, third):
        leases.add([each], TENANT, 300)
    assert kept(leases, others, first, second, third) == [True, False, True, True]


def test_of_a_prompt_that_is_too_long_the_beginning_is_kept(leases: Leases) -> None:
    path = [node(1, 60), node(2, 30), node(3, 30)]
    leases.add(path, TENANT, 300)
    assert kept(leases, *path) == [True, True, False]


def test_all_together_leave_half_of_the_pool_to_others(leases: Leases) -> None:
    owned = [node(number, 90) for number in range(4)]
    for each in owned:
        leases.add([each], f"tenant:{each.id:032}:", 300)
    assert kept(leases, *owned) == [True, True, False, False]


def test_both_halves_of_a_node_are_kept_and_count_once(leases: Leases) -> None:
    lower = node(1, 80)
    leases.add([lower], TENANT, 300)
    upper, lower.key = node(2, 30), [0] * 50
    leases.split(upper, lower)
    leases.add([node(3, 20)], TENANT, 300)
    assert kept(leases, upper, lower) == [True, True]
    leases.end(lower)
    assert kept(leases, upper, lower) == [True, False]


def test_what_is_kept_goes_last_and_among_equals_the_usual_order_holds(leases: Leases) -> None:
    old, new, pinned = node(1, 10, used_at=1), node(2, 10, used_at=3), node(3, 10, used_at=0)
    leases.add([pinned], None, 300)
    order = KeptLast(SimpleNamespace(get_priority=lambda each: each.last_access_time), leases)  # type: ignore[arg-type]
    assert sorted([new, pinned, old], key=order.get_priority) == [old, new, pinned]


@pytest.mark.parametrize(
    ("namespace", "owner"),
    [
        (None, ""),
        ("their own", ""),
        (TENANT, TENANT[:-1]),
        (TENANT + "more", TENANT[:-1]),
        ("unshared:cafe:" + TENANT, TENANT[:-1]),
        ("unshared:cafe:", ""),
    ],
)
def test_an_owner_is_a_tenant_or_whoever_is_none(namespace: str | None, owner: str) -> None:
    assert owner_of(namespace) == owner
