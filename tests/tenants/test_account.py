"""What a tenant may, by a clock that the test sets, and what its calls become."""

from typing import Any

import pytest

from prefillshare.config.tenants import Tenant
from prefillshare.errors import ConfigError
from prefillshare.naming.alias import read_aliases
from prefillshare.naming.names import Names
from prefillshare.tenants.account import Account
from prefillshare.tenants.confine import ConfinedError, check_module, confine
from prefillshare.tenants.doors import check_door
from prefillshare.tenants.errors import OverLimitError, TenantError
from tests.support.clock import Clock

SALT = "0123456789abcdef"
NAMES = Names(
    base="base",
    modules=("math", "code"),
    aliases=read_aliases({"latest": "math", "either": {"math": 0.5, "code": 0.5}}),
)


def make(clock: Clock | None = None, name: str = "acme", **fields: Any) -> Account:
    return Account(Tenant(name=name, salt=SALT, **fields), clock or Clock())


def refusal(account: Account) -> OverLimitError:
    with pytest.raises(OverLimitError) as caught, account.calling():
        pass
    return caught.value


def test_calls_come_at_the_rate_that_is_allowed() -> None:
    clock = Clock()
    account = make(clock, calls_per_s=2)
    for _ in range(2):
        with account.calling():
            pass
    error = refusal(account)
    assert (error.status, error.code, error.headers) == (429, "rate_limit_exceeded", {"Retry-After": "1"})
    clock.now = 0.5
    with account.calling():
        pass
    refusal(account)
    assert (account.stats.calls, account.stats.refused["rate"]) == (3, 2)


def test_a_slow_rate_says_for_how_long_to_wait() -> None:
    account = make(calls_per_s=0.1)
    with account.calling():
        pass
    assert refusal(account).retry_after_s == 10


def test_the_slowest_rate_tells_a_time_that_can_be_waited_for() -> None:
    account = make(calls_per_s=1e-6)
    with account.calling():
        pass
    assert refusal(account).retry_after_s == 1_000_000
    for rate in (1e-320, 0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="calls_per_s is"):
            make(calls_per_s=rate)


def test_no_more_calls_than_allowed_at_a_time() -> None:
    account = make(concurrent=1)
    with account.calling():
        assert refusal(account).reason == "concurrent"
    with account.calling():
        pass


def test_tokens_that_were_used_up_come_again_by_the_minute() -> None:
    clock = Clock()
    account = make(clock, tokens_per_min=60)
    with account.calling():
        account.note_prompt(70, 50)
        account.note_generated(20)
    error = refusal(account)
    assert (error.kind, error.retry_after_s) == ("tokens", 31)
    clock.now = 31.0
    with account.calling():
        pass
    assert account.stats.counters() == {
        "calls": 2,
        "prompt_tokens": 70,
        "cached_tokens": 50,
        "generated_tokens": 20,
    }


def test_the_same_key_of_two_tenants_is_two_namespaces_and_neither_tells_the_salt() -> None:
    body = {"model": "math", "extra_key": "k", "rid": "r"}
    one, other = confine(body, make()), confine(body, make(name="other"))
    assert one["extra_key"] != other["extra_key"]
    assert SALT not in one["extra_key"]
    assert one.keys() == {"model", "extra_key"}
    assert confine({}, make())["extra_key"] != confine({"extra_key": ""}, make(name="acme2"))["extra_key"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"cache_salt": "a", "extra_key": "b"}, {"cache_salt": "ab"}),
        ({"cache_salt": "a"}, {"extra_key": "a"}),
        ({}, {"extra_key": "a"}),
    ],
)
def test_what_a_tenant_keeps_apart_itself_stays_apart(first: dict[str, str], second: dict[str, str]) -> None:
    assert confine(first, make())["extra_key"] != confine(second, make())["extra_key"]


def test_each_prompt_of_a_batch_is_in_the_tenants_namespace() -> None:
    account = make()
    keys = confine({"extra_key": ["a", "b"], "cache_salt": "s"}, account)["extra_key"]
    assert len(set(keys)) == 2
    assert all(key.startswith(account.mark) for key in keys)


def test_a_shared_tenant_is_in_the_common_cache_and_in_nobody_elses() -> None:
    shared, mark = make(shared=True), make().mark
    assert "extra_key" not in confine({"model": "math"}, shared)
    assert mark is not None
    for body in ({"extra_key": mark}, {"cache_salt": mark}, {"extra_key": ["a", mark]}):
        with pytest.raises(ConfinedError, match="give another one"):
            confine(body, shared)


@pytest.mark.parametrize("value", [1, {"a": 1}, [["a"]]])
def test_a_namespace_that_is_no_text_is_refused(value: Any) -> None:
    with pytest.raises(ConfinedError, match="give a text"):
        confine({"extra_key": value}, make())


@pytest.mark.parametrize(
    ("body", "otherwise", "is_allowed"),
    [
        ({"model": "math"}, None, True),
        ({"model": "base:math"}, None, True),
        ({"model": "code"}, None, False),
        ({"model": "base"}, None, False),
        ({"model": "base", "lora_path": "math"}, None, True),
        ({"model": "math", "lora_path": "code"}, None, False),
        ({"lora_path": ["math", "code"]}, None, False),
        ({}, "code", False),
        ({}, "base", False),
        ({}, None, True),
    ],
)
def test_every_name_of_a_call_must_be_the_tenants(body: dict[str, Any], otherwise: str, is_allowed: bool) -> None:
    account = make(modules=("math",))
    if is_allowed:
        check_module(body, account, otherwise, "base")
    else:
        with pytest.raises(TenantError) as caught:
            check_module(body, account, otherwise, "base")
        assert (caught.value.status, caught.value.code) == (403, "model_not_found")
    assert account.stats.refused["module"] == (not is_allowed)


@pytest.mark.parametrize(
    ("method", "path", "is_open"),
    [
        ("POST", "/v1/chat/completions", True),
        ("PUT", "/generate", True),
        ("GET", "/v1/responses/resp_1/input_items", True),
        ("DELETE", "/v1/responses/resp_1", True),
        ("GET", "/v1/models/math", True),
        ("POST", "/modules/math/generate", True),
        ("POST", "/modules/code/generate", False),
        ("POST", "/modules/latest/generate", True),
        ("POST", "/modules/either/generate", False),
        ("POST", "/modules/no-such/generate", False),
        ("GET", "/metrics", False),
        ("GET", "/deployment/state", False),
        ("GET", "/router/state", False),
        ("GET", "/workers", False),
        ("POST", "/flush_cache", False),
        ("POST", "/modules/math/flush_cache", False),
        ("GET", "/server_info", False),
        ("POST", "/load_lora_adapter", False),
        ("POST", "/abort_request", False),
        ("GET", "/prefillshare/continuation", False),
        ("GET", "/v1/models/../metrics", False),
        ("DELETE", "/v1/models/math", False),
    ],
)
def test_a_tenants_key_opens_the_doors_of_calls_alone(method: str, path: str, is_open: bool) -> None:
    account = make(modules=("math",))
    if is_open:
        check_door(account, method, path, lambda: NAMES)
    else:
        with pytest.raises(TenantError):
            check_door(account, method, path, lambda: NAMES)


def test_a_path_that_is_nearly_a_door_is_named() -> None:
    for path, meant in (("/chat/completions", "/v1/chat/completions"), ("/v1/v1/messages", "/v1/messages")):
        with pytest.raises(TenantError, match=f"did you mean {meant}"):
            check_door(make(), "POST", path, lambda: NAMES)
    with pytest.raises(TenantError, match=r"it needs the operator's key$"):
        check_door(make(), "GET", "/metrics", lambda: NAMES)
