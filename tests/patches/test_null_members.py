"""What a client writes as null is what it left out."""

from typing import Any

import pytest

from sglang_patches.http.null_members import drop_nulls

MESSAGES = [{"role": "assistant", "content": None, "tool_calls": None}]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/modules/m/v1/completions"]
)
def test_null_members_are_left_out(path: str) -> None:
    call = {"model": "m", "messages": MESSAGES, "n": None, "echo": None, "temperature": 0}
    assert drop_nulls(call, path) == {"model": "m", "messages": MESSAGES, "temperature": 0}


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        (
            "tools",
            [{"type": "function", "function": {"name": "f", "strict": None}}],
            [{"type": "function", "function": {"name": "f"}}],
        ),
        (
            "response_format",
            {"type": "json_schema", "json_schema": {"name": "s", "strict": None}},
            {"type": "json_schema", "json_schema": {"name": "s"}},
        ),
        ("stream_options", {"include_usage": None}, {}),
        ("tools", [5, {"function": None}], [5, {}]),
        ("response_format", "text", "text"),
    ],
)
def test_and_within_what_has_optional_members_itself(name: str, value: Any, kept: Any) -> None:
    assert drop_nulls({name: value}, "/v1/chat/completions") == {name: kept}


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ({"text": None, "sampling_params": None}, "/generate"),
        ({"messages": MESSAGES, "tools": [{"function": {"parameters": {"enum": [None]}}}]}, "/v1/chat/completions"),
        (
            {"metadata": {"a": None}, "response_format": {"json_schema": {"schema": {"const": None}}}},
            "/v1/chat/completions",
        ),
    ],
)
def test_other_nulls_mean_something(call: dict[str, Any], path: str) -> None:
    assert drop_nulls(call, path) is call
