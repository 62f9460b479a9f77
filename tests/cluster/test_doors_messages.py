"""`/v1/messages`: what one engine answers, a router answers alike, in the forms of Anthropic's clients."""

from typing import Any

import httpx
import pytest

from tests.support.doors import CHAT, MESSAGES, answers, ask, events

MESSAGE: dict[str, Any] = {"model": "math", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
TOOL = {"name": "now", "description": "the time", "input_schema": {"type": "object", "properties": {"zone": {}}}}


@pytest.mark.parametrize("fields", [{}, {"system": "Be brief."}, {"system": [{"type": "text", "text": "Be brief."}]}])
def test_a_message_says_what_the_chat_says(url: str, fields: dict[str, Any]) -> None:
    system = [{"role": "system", "content": "Be brief."}] if fields else []
    chat = ask(url, "/v1/chat/completions", CHAT | {"messages": [*system, *MESSAGES]})
    message = ask(url, "/v1/messages", MESSAGE | fields)
    assert [block["text"] for block in message["content"]] == answers(chat)
    assert message["stop_reason"] == "max_tokens"
    usage = message["usage"]
    assert usage["input_tokens"] + usage.get("cache_read_input_tokens", 0) == chat["usage"]["prompt_tokens"]
    counted = {name: value for name, value in (MESSAGE | fields).items() if name in ("model", "messages", "system")}
    assert ask(url, "/v1/messages/count_tokens", counted)["input_tokens"] == chat["usage"]["prompt_tokens"]
    told = events(url, "/v1/messages", MESSAGE | fields)
    assert (
        "".join(event["delta"]["text"] for event in told if event["type"] == "content_block_delta") == answers(chat)[0]
    )
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")


def test_a_message_uses_a_tool_when_it_must(url: str) -> None:
    call = MESSAGE | {"model": "tool", "tools": [TOOL], "tool_choice": {"type": "any"}, "max_tokens": 200}
    blocks = ask(url, "/v1/messages", call)["content"]
    told = events(url, "/v1/messages", call)
    started = [event["content_block"] for event in told if event["type"] == "content_block_start"]
    # What the model writes behind its call, SGLang's parser counts as text when it streams, but for one character of
    # it when it does not.
    used, streamed = ([block["name"] for block in told if block["type"] == "tool_use"] for told in (blocks, started))
    assert used == streamed


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "nope"}, 404),
        ({"model": 5}, 400),
        ({"messages": []}, 400),
        ({"messages": [5]}, 400),
        ({"messages": [{"role": "nope", "content": "x"}]}, 400),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "x"}}]}]}, 400),
        ({"max_tokens": 0}, 400),
        ({"max_tokens": None}, 400),
        ({"max_tokens": 10**7}, 400),
        ({"max_tokens": 10**7, "stream": True}, 400),
        ({"temperature": -1}, 400),
        ({"top_p": 5}, 400),
        ({"stop_sequences": [5]}, 400),
        ({"tools": [{}]}, 400),
        ({"tool_choice": {"type": "tool", "name": "nope"}}, 400),
        ({"cache_salt": 5}, 400),
        ({"prefillshare_router": {"rid": "x"}}, 400),
    ],
)
def test_a_mistake_in_a_message_is_told_in_the_form_of_its_clients(
    url: str, fields: dict[str, Any], status: int
) -> None:
    reply = httpx.post(f"{url}/v1/messages", json=MESSAGE | fields, timeout=60)
    assert reply.status_code == status, reply.text
    told = reply.json()
    assert (told["type"], set(told["error"])) == ("error", {"type", "message"})
    assert told["error"]["type"] == {400: "invalid_request_error", 404: "not_found_error"}[status]
    assert told["error"]["message"]


def test_other_mistakes_below_messages_have_that_form_too(url: str) -> None:
    large = b'{"model": "math", "max_tokens": 1, "messages": "' + b"a" * (40 << 20) + b'"}'
    json_type = {"Content-Type": "application/json"}
    for reply, status in (
        (httpx.get(f"{url}/v1/messages", timeout=60), 405),
        (httpx.get(f"{url}/v1/messages/nope", timeout=60), 404),
        (httpx.post(f"{url}/v1/messages", content=b"{", headers=json_type, timeout=60), 400),
        (httpx.post(f"{url}/v1/messages", content=large, headers=json_type, timeout=60), 413),
    ):
        assert reply.status_code == status
        assert reply.json()["type"] == "error", reply.text


def test_a_message_that_is_kept_apart_finds_nobody_elses_prompt(url: str) -> None:
    call = MESSAGE | {"messages": [{"role": "user", "content": "Lena's shelf, kept apart from all others"}]}
    ask(url, "/v1/messages", call | {"max_tokens": 1})
    hits = [
        ask(url, "/v1/messages", call | {"max_tokens": 1} | keys)["usage"].get("cache_read_input_tokens", 0)
        for keys in ({}, {"cache_salt": "lena"})
    ]
    assert hits[0] > hits[1] == 0


def test_the_user_of_a_message_names_its_session(url: str) -> None:
    ask(url, "/v1/messages", MESSAGE | {"metadata": {"user_id": "anna"}})
    state = httpx.get(f"{url}/deployment/state", timeout=60).json()
    assert "anna" in [session["id"] for session in state["sessions"]["items"]]
