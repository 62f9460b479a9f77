"""What a client gets wrong is answered with 4xx and the reason, at every interface of the engine."""

import json
from typing import Any

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment

MESSAGES = [{"role": "user", "content": "hi"}]
CHAT = {"model": "math", "messages": MESSAGES, "max_tokens": 2}
SELF = {"$ref": "#"}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
FOREVER = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"

VALUES: dict[str, tuple[dict[str, Any], str]] = {
    "no tokens": ({"max_tokens": 0}, "max_tokens is 0: it must be at least 1"),
    "empty stop": ({"stop": ""}, "stop contains an empty text"),
    "samples": ({"n": -1}, "n is -1"),
    "schema": ({"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": SELF}}}, "nothing"),
    "format": ({"response_format": 5}, "response_format is '5': give an object"),
    "bare schema": ({"response_format": {"type": "json_schema", "schema": 5}}, "the body is not what this path takes"),
    "own template": ({"chat_template_kwargs": {"chat_template": FOREVER}}, "may not set chat_template"),
    "own messages": ({"chat_template_kwargs": {"messages": 5}}, "may not set messages"),
    "options": ({"stream_options": {"include_usage": True}}, "stream_options is for streams"),
    "top logprobs": ({"logprobs": True, "top_logprobs": 99}, "top_logprobs is 99: it must be 0 to 20"),
    "only top logprobs": ({"top_logprobs": 2}, "set logprobs to true"),
    "tool": ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "foo"}}}]}, "type"),
    "no such tool": (
        {"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "Tool 'g' not found",
    ),
    "no messages": ({"messages": []}, "messages is empty"),
    "format as text": ({"response_format": "text"}, "response_format is 'text': give an object"),
    "stream options": ({"stream": True, "stream_options": [1]}, "stream_options is '[1]': give an object"),
    "seed": ({"seed": 10**30}, "seed"),
}

OPTIONAL = ("n", "stream", "logprobs", "frequency_penalty", "presence_penalty", "parallel_tool_calls", "stop", "tools")
"""Members that OpenAI's API takes as null."""

OTHERS: dict[str, tuple[str, dict[str, Any], int, str]] = {
    "best of": ("/v1/completions", {"model": "math", "prompt": "x", "best_of": 2}, 400, "best_of is 2"),
    "no tokens": (
        "/v1/completions",
        {"model": "math", "prompt": "x", "max_tokens": 0},
        400,
        '"message":"max_tokens: max_tokens must be positive',
    ),
    "suffix": ("/v1/completions", {"model": "math", "prompt": "x", "suffix": "y"}, 400, "suffix is not supported"),
    "embeddings": ("/v1/embeddings", {"model": "math", "input": "x"}, 404, "no embeddings"),
    "rerank": ("/v1/rerank", {"query": "x", "documents": ["a"]}, 404, "no embeddings"),
    "classify": ("/v1/classify", {"model": "math", "input": "x"}, 404, "classes"),
    "encode": ("/encode", {"text": "x"}, 404, "no embeddings"),
    "native classify": ("/classify", {"text": "x"}, 404, "classes"),
    "recorder": ("/start_expert_distribution_record", {}, 404, "no recorder"),
    "detokenize": ("/v1/detokenize", {"tokens": [10**12]}, 400, "token id 1000000000000 does not exist"),
    "responses": ("/v1/responses", {"model": "math", "input": []}, 400, "input is empty"),
    "responses length": ("/v1/responses", {"model": "math", "input": "x", "max_output_tokens": 0}, 400, "max_output"),
    "responses format": (
        "/v1/responses",
        {"model": "math", "input": "x", "text": {"format": {"type": "json_schema", "name": "s", "schema": SELF}}},
        400,
        "json_schema cannot be used",
    ),
    "anthropic": ("/v1/messages", {"model": "math", "max_tokens": 2, "messages": []}, 400, "messages is empty"),
    "ollama": ("/api/chat", {"model": "random-base", "messages": []}, 400, "messages is empty"),
    "ollama stream": (
        "/api/generate",
        {"model": "random-base", "prompt": "x", "stream": True, "options": {"temperature": "x"}},
        400,
        "temperature is 'x'",
    ),
    "native stream": (
        "/generate",
        {"text": "x", "stream": True, "sampling_params": {"regex": "((("}},
        400,
        "regex cannot be used",
    ),
    "parser": ("/separate_reasoning", {"text": "x", "reasoning_parser": "foo"}, 400, "foo"),
}

BODY = json.dumps(CHAT)
RAW: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "compressed": (BODY.encode(), {"Content-Encoding": "gzip"}, 415, "without compression"),
    "charset": (BODY.encode(), {"Content-Type": "application/json; charset=utf-16"}, 415, "send JSON in UTF-8"),
    "no UTF-8": (BODY.replace("hi", "h\xff").encode("latin-1"), {}, 400, "the body is not UTF-8"),
    "list": (b"[1]", {}, 400, "give a JSON object"),
    "null": (b"null", {}, 400, "give a JSON object"),
    "cut": (BODY.encode()[:-4], {}, 400, ""),
    "nested": (b"[" * 100_000, {}, 400, ""),
    "nested and closed": (b'{"a":' * 500 + b"1" + b"}" * 500, {}, 400, "more than 128 levels"),
    "large": (b'{"a":"' + b"x" * (33 << 20) + b'"}', {}, 413, "more than 32 MiB"),
}


def refused(reply: httpx.Response, status: int, said: str) -> None:
    assert (reply.status_code, said in reply.text) == (status, True), reply.text[:500]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("stream", [False, True])
def test_a_chat_with_a_wrong_value(random_server: RunningDeployment, name: str, stream: bool) -> None:
    body, said = VALUES[name]
    if stream and name == "options":
        return
    reply = httpx.post(f"{random_server.url}/v1/chat/completions", json={**CHAT, "stream": stream, **body}, timeout=60)
    refused(reply, 400, said)


@pytest.mark.parametrize("name", OTHERS)
def test_a_wrong_call_of_another_interface(random_server: RunningDeployment, name: str) -> None:
    path, body, status, said = OTHERS[name]
    refused(httpx.post(random_server.url + path, json=body, timeout=60), status, said)


@pytest.mark.parametrize("name", RAW)
def test_a_body_that_is_none(random_server: RunningDeployment, name: str) -> None:
    content, headers, status, said = RAW[name]
    url = f"{random_server.url}/v1/chat/completions"
    headers = {"Content-Type": "application/json"} | headers
    refused(httpx.post(url, content=content, headers=headers, timeout=60), status, said)


def test_what_is_no_mistake_is_served(random_server: RunningDeployment) -> None:
    """Null, 0 and empty lists where OpenAI's API takes them."""
    nothing = {"stop": None, "logit_bias": {}, "seed": None, "tools": [], "n": 1, "temperature": 0, "top_logprobs": 0}
    body = {**CHAT, **nothing, "logprobs": True, "response_format": {"type": "text"}}
    reply = httpx.post(f"{random_server.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    reply = httpx.post(f"{random_server.url}/v1/chat/completions", json={**CHAT, **dict.fromkeys(OPTIONAL)}, timeout=60)
    assert reply.status_code == 200, reply.text
    body = {"text": "x", "lora_path": "math", "sampling_params": {"n": None, "max_new_tokens": 2}}
    assert httpx.post(f"{random_server.url}/generate", json=body, timeout=60).status_code == 200
