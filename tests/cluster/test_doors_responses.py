"""`/v1/responses`: what one engine answers, a router answers alike; kept, streamed, in the background."""

import json
from typing import Any

import httpx
import pytest

from tests.cluster.conftest import Cluster
from tests.support.doors import CHAT, MESSAGES, QUESTION, answers, ask, events
from tests.support.waiting import wait_until

RESPONSE: dict[str, Any] = {"model": "math", "input": QUESTION, "max_output_tokens": 12, "temperature": 0}
FUNCTION = {"type": "function", "name": "now", "parameters": {"type": "object", "properties": {"zone": {}}}}


def said(response: dict[str, Any]) -> str:
    (message,) = response["output"]
    (part,) = message["content"]
    text: str = part["text"]
    return text


def test_a_response_says_what_the_chat_says_and_so_does_one_that_goes_on(url: str) -> None:
    chat = ask(url, "/v1/chat/completions", CHAT)
    first = ask(url, "/v1/responses", RESPONSE)
    assert [said(first)] == answers(chat)
    assert first["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert first["usage"]["output_tokens"] == chat["usage"]["completion_tokens"]
    turns = [*MESSAGES, {"role": "assistant", "content": said(first)}, {"role": "user", "content": "And then?"}]
    chat = ask(url, "/v1/chat/completions", CHAT | {"messages": turns})
    more = ask(url, "/v1/responses", RESPONSE | {"input": "And then?", "previous_response_id": first["id"]})
    assert [said(more)] == answers(chat)
    assert more["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]
    assert more["previous_response_id"] == first["id"]
    # The same, told by the client: an answer comes back in the form in which it went out.
    items = [{"role": "user", "content": QUESTION}, *first["output"], {"role": "user", "content": "And then?"}]
    assert said(ask(url, "/v1/responses", RESPONSE | {"input": items})) == said(more)


def test_a_response_that_was_cut_off_says_so(url: str) -> None:
    format_ = {"format": {"type": "json_schema", "name": "thing", "schema": {"enum": ["box", "pen"]}}}
    for fields, status in (({"max_output_tokens": 2}, "incomplete"), ({"text": format_}, "completed")):
        last = events(url, "/v1/responses", RESPONSE | fields)[-1]
        kept = httpx.get(f"{url}/v1/responses/{last['response']['id']}", timeout=60).json()
        for told in (ask(url, "/v1/responses", RESPONSE | fields), last["response"], kept):
            reason = {"reason": "max_output_tokens"} if status == "incomplete" else None
            assert (told["status"], told["incomplete_details"]) == (status, reason)
            assert [item["status"] for item in told["output"]] == [status]
        assert last["type"] == f"response.{status}"


def test_a_streamed_response_is_kept_and_read_and_deleted(url: str) -> None:
    told = events(url, "/v1/responses", RESPONSE)
    whole = "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    final = told[-1]["response"]
    assert (told[0]["type"], told[-1]["type"], said(final)) == (
        "response.created",
        f"response.{final['status']}",
        whole,
    )
    assert {event["response"]["id"] for event in told if "response" in event} == {final["id"]}
    kept = f"{url}/v1/responses/{final['id']}"
    assert said(httpx.get(kept, timeout=60).json()) == whole
    assert httpx.get(f"{kept}/input_items", timeout=60).json()["data"][0]["content"] == QUESTION
    assert httpx.post(f"{kept}/cancel", timeout=60).status_code == 400
    assert httpx.delete(kept, timeout=60).json()["deleted"]
    gone = [httpx.request(method, kept, timeout=60) for method in ("GET", "DELETE")]
    assert [(reply.status_code, reply.json()["error"]["code"]) for reply in gone] == [(404, "not_found")] * 2
    unkept = ask(url, "/v1/responses", RESPONSE | {"store": False})
    assert httpx.get(f"{url}/v1/responses/{unkept['id']}", timeout=60).status_code == 404


def test_a_response_in_the_background_is_computed_or_cancelled(url: str) -> None:
    done = ask(url, "/v1/responses", RESPONSE | {"background": True})
    assert done["status"] == "queued"
    of_it = f"{url}/v1/responses/{done['id']}"
    wait_until(lambda: httpx.get(of_it, timeout=60).json()["status"] in ("completed", "incomplete"))
    # Nothing that could be said is short: it runs still, however late it is cancelled.
    schema = {"type": "array", "items": {"enum": ["box"]}, "minItems": 200}
    form = {"type": "json_schema", "name": "many", "schema": schema}
    long = RESPONSE | {"background": True, "max_output_tokens": 3000, "text": {"format": form}}
    ended = ask(url, "/v1/responses", long)
    assert httpx.post(f"{url}/v1/responses/{ended['id']}/cancel", timeout=60).json()["status"] == "cancelled"
    wait_until(lambda: is_idle(url))
    assert httpx.get(f"{url}/v1/responses/{ended['id']}", timeout=60).json()["status"] == "cancelled"


def is_idle(url: str) -> bool:
    workers = httpx.get(f"{url}/deployment/state", timeout=60).json()["workers"]
    return not any(worker["running"] for worker in workers)


def test_a_client_that_leaves_a_response_ends_it(url: str) -> None:
    call = RESPONSE | {"model": "tool", "max_output_tokens": 3000, "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=call, timeout=60) as reply:
        assert next(reply.iter_lines())
    wait_until(lambda: is_idle(url))


def test_a_response_calls_a_tool(cluster: Cluster) -> None:
    """The tiny family's engines have a parser of tool calls; those of random models have none."""
    call = RESPONSE | {"model": "tool", "tools": [FUNCTION], "max_output_tokens": 200}
    (item,) = ask(cluster.running.url, "/v1/responses", call | {"tool_choice": "required"})["output"]
    assert (item["type"], item["name"]) == ("function_call", "now")


def test_a_response_has_a_form(url: str) -> None:
    form = {"type": "json_schema", "name": "thing", "schema": {"enum": ["box", "pen"]}}
    told = ask(url, "/v1/responses", RESPONSE | {"text": {"format": form}})
    assert json.loads(said(told)) in ("box", "pen")
    assert told["text"] == {"format": form}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"model": "nope"}, 404),
        ({"model": 5}, 400),
        ({"model": None}, 400),
        ({"input": []}, 400),
        ({"input": 5}, 400),
        ({"input": [5]}, 400),
        ({"input": None}, 400),
        ({"max_output_tokens": 0}, 400),
        ({"temperature": -1}, 400),
        ({"temperature": -1, "stream": True}, 400),
        ({"tools": [{}]}, 400),
        ({"tool_choice": "required"}, 400),
        ({"stream": "a"}, 400),
        ({"store": "a"}, 400),
        ({"background": True, "stream": True}, 400),
        ({"previous_response_id": 5}, 400),
        ({"previous_response_id": "resp_nope"}, 404),
        ({"cache_salt": 5}, 400),
        ({"text": 5}, 400),
        ({"text": {"format": {"type": "xml"}}}, 400),
        ({"text": {"format": {"type": "json_schema", "schema": 5}}}, 400),
        ({"prefillshare_router": {"rid": "x"}}, 400),
    ],
)
def test_a_mistake_in_a_response_is_told(url: str, fields: dict[str, Any], status: int) -> None:
    reply = httpx.post(f"{url}/v1/responses", json=RESPONSE | fields, timeout=60)
    assert reply.status_code == status, reply.text
    assert set(reply.json()["error"]) == {"message", "type", "param", "code"}
    assert reply.json()["error"]["message"]
