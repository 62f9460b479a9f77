"""Hints about a prompt's future, in the forms in which callers give them."""

from typing import Any

import orjson
import pytest

from prefillshare.wire.hints import MAX_TTL_S, HintError, may_have_hints, read_pin_s, read_prefetch

EPHEMERAL = {"type": "ephemeral"}


def of_block(control: Any) -> dict[str, Any]:
    block = {"type": "text", "text": "a", "cache_control": control}
    return {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": [block]}]}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        ({"messages": [{"role": "user", "content": "pin this"}]}, 0),
        ({"kv_hints": {"pin": True}}, 300),
        ({"kv_hints": {"pin": True, "ttl": "1h"}}, 3600),
        ({"kv_hints": {"pin": True, "ttl": 20}}, 20),
        ({"kv_hints": {"pin": True, "ttl": "48h"}}, MAX_TTL_S),
        ({"kv_hints": {"pin": False, "ttl": "5m"}}, 0),
        ({"kv_hints": {"priority": 3, "demote": True}}, 0),
        ({"agent_hints": {"pin": True, "ttl": "30s", "osl": 100}}, 30),
        ({"nvext": {"agent_hints": {"pin": True}, "annotations": []}}, 300),
        ({"nvext": {"cache_control": EPHEMERAL | {"ttl": "1h"}}}, 3600),
        ({"system": [{"type": "text", "text": "a", "cache_control": EPHEMERAL}]}, 300),
        ({"tools": [{"name": "a", "cache_control": EPHEMERAL | {"ttl": "1h"}}]}, 3600),
        (of_block(EPHEMERAL | {"ttl": "5m"}), 300),
        ({"cache_control": EPHEMERAL}, 300),
    ],
)
def test_hints_are_read_in_each_form(body: dict[str, Any], seconds: int) -> None:
    assert read_pin_s(body) == seconds
    assert may_have_hints(orjson.dumps(body)) or seconds == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kv_hints": "pin"}, "give an object"),
        ({"kv_hints": {"pin": 1}}, "true or false"),
        ({"kv_hints": {"pin": True, "ttl": "soon"}}, "'5m' or '1h'"),
        ({"kv_hints": {"pin": True, "ttl": 0}}, "'5m' or '1h'"),
        (of_block({"type": "persistent"}), "ephemeral"),
        (of_block("yes"), "ephemeral"),
    ],
)
def test_what_is_meant_and_cannot_be_read_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(HintError, match=said):
        read_pin_s(body)


@pytest.mark.parametrize(
    ("body", "is_wanted"),
    [
        ({"messages": [{"role": "user", "content": "prefetch this"}]}, False),
        ({"kv_hints": {"prefetch": True}}, True),
        ({"kv_hints": {"prefetch": False, "pin": True}}, False),
        ({"kv_hints": {"prefetch": None}}, False),
        ({"kv_hints": None, "agent_hints": {"prefetch": True}}, True),
        ({"nvext": {"agent_hints": {"prefetch": True}}}, True),
        ({"nvext": {"prefetch": True}, "prefetch": True}, False),
        ({"nvext": "prefetch"}, False),
        (of_block(EPHEMERAL | {"prefetch": True}), False),
    ],
)
def test_whether_only_the_prompt_is_wanted(body: dict[str, Any], is_wanted: bool) -> None:
    assert read_prefetch(body) == is_wanted
    assert may_have_hints(orjson.dumps(body)) or not is_wanted


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"kv_hints": {"prefetch": 1}}, "prefetch is '1': it must be true or false"),
        ({"kv_hints": {"prefetch": True}, "agent_hints": {"prefetch": "yes"}}, "prefetch is 'yes'"),
        ({"kv_hints": ["prefetch"]}, "give an object"),
    ],
)
def test_a_prefetch_that_is_neither_true_nor_false_is_refused(body: dict[str, Any], said: str) -> None:
    with pytest.raises(HintError, match=said):
        read_prefetch(body)


def test_pins_beside_it_hold() -> None:
    assert read_pin_s({"kv_hints": {"prefetch": True, "pin": True, "ttl": 20}}) == 20


def test_a_body_that_is_all_blocks_is_not_walked_for_ever() -> None:
    inner: list[Any] = []
    for _ in range(50):
        inner = [inner, inner]
    assert read_pin_s({"messages": inner}) == 0
