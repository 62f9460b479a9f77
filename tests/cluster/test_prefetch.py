"""`kv_hints` with `prefetch`, in both topologies: the later call finds its prompt, and this one says nothing."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.doors import ask

PREFETCH = {"kv_hints": {"prefetch": True}}
TEXT = "{} counts beads and boxes of a shelf, and again more of them, in a long and winding tale of things. " * 4
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["box"]}}}
ENDS = {
    "/v1/chat/completions": '"finish_reason":"length"',
    "/v1/completions": '"finish_reason":"length"',
    "/v1/responses": '"status":"incomplete"',
    "/v1/messages": '"stop_reason":"max_tokens"',
    "/generate": '"type":"length"',
    "/modules/math/generate": '"type":"length"',
}
EACH_DOOR = pytest.mark.parametrize("path", ENDS)


def body_of(path: str, name: str) -> dict[str, Any]:
    """A call of this door with a prompt that no other has."""
    text = TEXT.format(*[f"{name} {path.replace('/', ' ')}"] * 4)
    if path.endswith("/generate"):
        return {"text": text, "sampling_params": {"max_new_tokens": 3}} | (
            {"lora_path": "math"} if path == "/generate" else {}
        )
    if path == "/v1/responses":
        return {"model": "math", "input": text, "max_output_tokens": 3}
    asked = {"prompt": text} if path == "/v1/completions" else {"messages": [{"role": "user", "content": text}]}
    return {"model": "math", "max_tokens": 3, **asked}


def tokens(reply: dict[str, Any]) -> tuple[int, int, int]:
    """Tokens of the prompt, those of them that were cached, and those of the answer."""
    usage = reply.get("usage") or reply["meta_info"]
    cached = usage.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0
    for name in ("prompt_tokens_details", "input_tokens_details"):
        cached = cached or (usage.get(name) or {}).get("cached_tokens") or 0
    prompt = usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"]
    if "cache_creation_input_tokens" in usage or "cache_read_input_tokens" in usage:
        prompt += cached + (usage.get("cache_creation_input_tokens") or 0)
    return prompt, cached, usage["completion_tokens"] if "completion_tokens" in usage else usage["output_tokens"]


def said(value: Any) -> Iterator[str]:
    """All texts in an answer, or in the events of one."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name in ("content", "text", "delta", "reasoning_content") and isinstance(member, str):
                yield member
            else:
                yield from said(member)
    elif isinstance(value, list):
        for member in value:
            yield from said(member)


def post(url: str, path: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(url + path, json=body, timeout=300)


@EACH_DOOR
def test_the_call_that_comes_later_finds_its_prompt(url: str, path: str) -> None:
    body = body_of(path, "Sven")
    reply = post(url, path, body | PREFETCH)
    assert reply.status_code == 200, reply.text
    prompt, cached, generated = tokens(reply.json())
    assert (cached < prompt / 2, generated, "".join(said(reply.json()))) == (True, 0, "")
    assert ENDS[path] in reply.text
    assert reply.json().get("model", "math") == "math"
    later_prompt, later_cached, later_generated = tokens(ask(url, path, body))
    assert (later_prompt, later_generated) == (prompt, 3)
    assert later_cached > prompt / 2


@EACH_DOOR
def test_a_stream_ends_without_a_word(url: str, path: str) -> None:
    body = body_of(path, "Lena")
    reply = post(url, path, body | PREFETCH | {"stream": True})
    assert (reply.status_code, reply.headers["Content-Type"].split(";")[0]) == (200, "text/event-stream")
    events = [json.loads(line[6:]) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert "".join(said(events)) == ""
    assert ENDS[path] in reply.text
    assert ("base" in reply.text, '"model":"math"' in reply.text) == (False, not path.endswith("/generate"))
    prompt, cached, _ = tokens(ask(url, path, body))
    assert cached > prompt / 2


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"n": 3}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"}),
        ("/v1/chat/completions", {"response_format": SCHEMA, "min_tokens": 2, "seed": 5}),
        ("/v1/completions", {"prompt": ["one box", "two boxes"], "n": 2, "echo": True, "logprobs": 1}),
        ("/v1/responses", {"text": {"format": {"type": "json_object"}}}),
        ("/generate", {"return_logprob": True, "logprob_start_len": 0, "text": ["one box", "two boxes"]}),
        ("/generate", {"sampling_params": {"n": 2, "json_schema": '{"enum": ["box"]}'}}),
    ],
)
def test_nothing_that_is_wanted_of_the_answer_makes_one(url: str, path: str, fields: dict[str, Any]) -> None:
    num_prompts = len(fields["prompt" if "prompt" in fields else "text"]) if {"prompt", "text"} & fields.keys() else 1
    body = body_of(path, "Omar") | fields | PREFETCH
    reply = ask(url, path, body)
    told = reply if isinstance(reply, list) else reply.get("choices", [reply])
    assert len(told) == (1 if path == "/v1/responses" else num_prompts)
    assert "".join(said(told)) == ""
    streamed = post(url, path, body | {"stream": True})
    assert streamed.status_code == 200, streamed.text
    assert ENDS[path] in streamed.text
    events = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(said(events)) == ""


@EACH_DOOR
def test_a_hint_that_cannot_be_read_is_refused(url: str, path: str) -> None:
    reply = post(url, path, body_of(path, "Mia") | {"kv_hints": {"prefetch": "soon"}})
    assert (reply.status_code, "prefetch is 'soon': it must be true or false" in reply.text) == (400, True)


def test_a_response_without_tokens_is_not_kept(url: str) -> None:
    body = body_of("/v1/responses", "Ada")
    kept = ask(url, "/v1/responses", body)
    more = {"input": "And then?", "previous_response_id": kept["id"]}
    told = ask(url, "/v1/responses", body | more | PREFETCH)
    assert (told["store"], told["output"], told["previous_response_id"]) == (False, [], kept["id"])
    assert httpx.get(f"{url}/v1/responses/{told['id']}", timeout=60).status_code == 404
    prompt, cached, _ = tokens(ask(url, "/v1/responses", body | more))
    assert cached > prompt / 2
    reply = post(url, "/v1/responses", body | PREFETCH | {"background": True})
    assert (reply.status_code, "background is true with prefetch" in reply.text) == (400, True)
