"""Errors in every form that SGLang has become OpenAI's, and give their reason in a line."""

import json

import pytest

from prefillshare.wire.errors import error_text, openai_error

OURS = {"error": {"message": "no", "type": "invalid_request_error", "param": None, "code": None}}
VALIDATION = (
    "1 validation error:\n  {'type': 'int_type', 'loc': ('body', 'n'), 'msg': 'a number please', 'input': 'x'}\n\n"
    "  File server.py, line 3"
)


def test_what_is_in_the_form_already_stays_as_it_is() -> None:
    body = json.dumps(OURS, indent=2).encode()
    assert openai_error(body, 400) is body


def test_what_pydantic_says_is_put_in_words() -> None:
    said = (
        "2 validation errors for ChatCompletionRequest\nmessages.0.function-after[check(), Generic].role\n  Value error"
        ", no such role [type=value_error, input_value='x', input_type=str]\n    For further information visit x\n"
        "messages.0.User.content.str\n  Field required [type=missing, input_value={}]\n    For further information"
    )
    error = json.loads(openai_error(json.dumps({"message": said}).encode(), 400))["error"]
    assert (error["message"], error["param"]) == ("messages.0: no such role; messages.0: Field required", "messages")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"object": "error", "message": "no room", "code": 400}, "no room"),
        ({"error": "no room"}, "no room"),
        ({"error": {"message": "no room", "code": 400}}, "no room"),
        ({"detail": "no room"}, "no room"),
        ({"success": False, "error_message": "no room"}, "no room"),
        ("no room", "no room"),
        ({}, "no reason given"),
    ],
)
@pytest.mark.parametrize(("status", "kind"), [(400, "invalid_request_error"), (500, "internal_server_error")])
def test_every_form_becomes_the_one(body: object, reason: str, status: int, kind: str) -> None:
    error = json.loads(openai_error(json.dumps(body).encode(), status))["error"]
    assert error == {"message": reason, "type": kind, "param": None, "code": None}


def test_a_literal_of_the_validation_becomes_words_and_names_the_field() -> None:
    error = json.loads(openai_error(json.dumps({"message": VALIDATION}).encode(), 400))["error"]
    assert (error["message"], error["param"]) == ("n: a number please (it is 'x')", "n")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"error": {"message": "no room"}}', "no room"),
        (b'{"message": "no room"}', "no room"),
        (b"no room \n", "no room"),
        (b"", "no reason given"),
        (b'{"state": "odd"}', "{'state': 'odd'}"),
        (b"x" * 600, "x" * 497 + "..."),
    ],
)
def test_the_reason_is_one_short_line(body: bytes, text: str) -> None:
    assert error_text(body) == text


@pytest.mark.parametrize(
    ("literal", "message", "param"),
    [
        (
            "{'type': 'json_invalid', 'loc': ('body', 1), 'msg': 'JSON decode error', 'input': {}, "
            "'ctx': {'error': 'unexpected end of data'}}",
            "the body is not JSON (unexpected end of data): send a JSON object",
            None,
        ),
        (
            "{'type': 'missing', 'loc': ('body', 'messages'), 'msg': 'Field required', 'input': {'model': 'm'}}",
            "messages: Field required",
            "messages",
        ),
        (
            "{'type': 'missing', 'loc': ('body', 'tools', 0, 'function'), 'msg': 'Field required', 'input': {'a': 1}}",
            "tools: function is missing",
            "tools",
        ),
    ],
)
def test_what_is_missing_is_named_without_what_it_is_missing_in(literal: str, message: str, param: str | None) -> None:
    body = json.dumps({"message": f"1 validation error:\n  {literal}\n\n  File server.py, line 3"}).encode()
    error = json.loads(openai_error(body, 400))["error"]
    assert (error["message"], error["param"]) == (message, param)


def test_a_body_that_is_nested_without_end_is_text() -> None:
    body = b"[" * 100_000
    assert error_text(body).startswith("[[[")
    assert json.loads(openai_error(body, 502))["error"]["message"].startswith("[[[")
