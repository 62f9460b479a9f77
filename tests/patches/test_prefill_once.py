"""Which requests wait for a prefill that is under way, and that none waits for ever."""

from array import array
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_patches.prefill.request_state import RequestState
from sglang_patches.prefill.underway import MAX_ROUNDS, MIN_TOKENS, PrefillsUnderway

NODE = object()
PROMPT = range(100, 200)


def request(
    tokens: Any = PROMPT, *, cached: int = 0, node: object = NODE, boundary: int | None = None, **fields: Any
) -> Any:
    """A request that has matched `cached` tokens of its prompt."""
    ids = array("q", tokens)
    base = {
        "full_untruncated_fill_ids": ids,
        "origin_input_ids": ids,
        "cache_protected_len": cached,
        "last_node": node,
        "extra_key": None,
        "prefillshare": RequestState(boundary=len(ids) - 1 if boundary is None else boundary, decode_module="math"),
        "_compute_max_prefix_len": lambda length: length - 1,
    }
    return SimpleNamespace(**{**base, **fields})


def waits(other: Any, *, first: Any = None, page_size: int = 1) -> bool:
    """Whether `other` waits while `first` is computed."""
    underway = PrefillsUnderway()
    underway.add(first or request(), page_size)
    return underway.should_wait(other, page_size)


def test_the_same_prompt_waits_until_the_tree_has_it():
    underway, first, second = PrefillsUnderway(), request(), request()
    assert not underway.should_wait(first, 1)
    underway.add(first, 1)
    assert underway.should_wait(second, 1)
    underway.end(first)
    assert not underway.should_wait(second, 1)
    assert len(underway) == 0


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(request(range(300, 400)), id="another prompt"),
        pytest.param(request([*range(100, 100 + MIN_TOKENS - 1), *range(500, 600)]), id="too short a common start"),
        pytest.param(request(range(100, 100 + MIN_TOKENS)), id="too short itself"),
        pytest.param(request(cached=60), id="has more in the tree already"),
        pytest.param(request(node=object()), id="another prefix before"),
        pytest.param(request(extra_key="tenant"), id="another tenant"),
        pytest.param(request(_compute_max_prefix_len=lambda length: 10), id="wants log-probabilities of its prompt"),
        pytest.param(request(boundary=10), id="base-made KV ends early"),
    ],
)
def test_who_does_not_wait(other):
    assert not waits(other)


def test_a_longer_prompt_with_the_same_start_waits():
    assert waits(request(range(100, 400)))


def test_a_page_that_would_not_be_shared_is_not_waited_for():
    common = [*range(100, 140), *range(500, 600)]
    assert waits(request(common))
    assert not waits(request(common), page_size=64)


def test_nobody_waits_for_ever():
    underway, second = PrefillsUnderway(), request()
    underway.add(request(), 1)
    assert [underway.should_wait(second, 1) for _ in range(MAX_ROUNDS + 2)] == [True] * MAX_ROUNDS + [False] * 2


def test_the_next_chunk_is_waited_for_anew():
    underway, leader, second = PrefillsUnderway(), request(), request()
    underway.add(leader, 1)
    assert [underway.should_wait(second, 1) for _ in range(MAX_ROUNDS + 1)][-1] is False
    underway.end(leader)
    leader.cache_protected_len = second.cache_protected_len = 50
    underway.add(leader, 1)
    assert underway.should_wait(second, 1)


def test_the_end_of_one_request_is_not_that_of_another():
    underway, first, second = PrefillsUnderway(), request(), request()
    underway.add(first, 1)
    underway.add(second, 1)
    underway.end(second)
    assert underway.should_wait(request(), 1)


@pytest.mark.parametrize(
    ("prompt", "fields", "waits"),
    [
        (range(100, 120), {}, True),
        (range(100, 110), {}, True),
        (range(100, 109), {}, False),
        ([*range(100, 109), 7, 8], {}, False),
        (range(100, 120), {"extra_key": "tenant"}, False),
        (range(100, 120), {"cached": 10}, False),
    ],
)
def test_a_call_waits_for_a_slice_that_is_its_start(prompt: Any, fields: dict[str, Any], waits: bool) -> None:
    """However short: the slice of ten tokens runs already, and is in the tree after the next round."""
    underway = PrefillsUnderway()
    call = request(prompt, **fields)
    call.prefix_indices = range(call.cache_protected_len)
    assert not underway.is_being_sliced(call)
    underway.slice = request(range(100, 110))
    assert underway.is_being_sliced(call) == waits
