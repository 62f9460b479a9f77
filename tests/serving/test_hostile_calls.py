"""Calls that ended or held up the engine of SGLang as released get 4xx with a reason, and the server serves on."""

import json
import threading
import time
from typing import Any

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment


def nested(levels: int) -> str:
    """A schema of objects within each other."""
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return json.dumps(schema)


SELF_NEEDED = {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]}

BODIES = {
    "negative id": ({"input_ids": [1, -5]}, "token id -5 does not exist"),
    "huge id": ({"input_ids": [1, 2**31 - 1]}, "token id 2147483647 does not exist"),
    "no number": ({"input_ids": [1, 2.5]}, ""),
    "empty in a batch": ({"input_ids": [[1], []]}, "the prompt is empty"),
    "top logprobs": ({"text": "x", "return_logprob": True, "top_logprobs_num": 10**6}, "top_logprobs_num is 1000000"),
    "list for one": ({"text": "x", "lora_path": ["math"]}, "lora_path is a list, and there is one prompt"),
    "internal field": ({"text": "x", "custom_labels": {"a": "b"}}, "custom_labels cannot be set"),
    "empty internal field": ({"text": "x", "positional_embed_overrides": {}}, "positional_embed_overrides cannot be"),
    "picture": ({"text": "x", "image_data": "/etc/hostname"}, "image_data cannot be set"),
    "adapter id": ({"text": "x", "lora_id": "0"}, "lora_id cannot be set"),
    "way of answers": ({"text": "x", "http_worker_ipc": "ipc:///tmp/x"}, "http_worker_ipc cannot be set"),
    "session": ({"text": "x", "session_params": {"foo": 1}}, "session_params has no 'foo'"),
    "prompts": ({"text": ["x"] * 2000}, "1024 are allowed"),
    "lists of parameters": ({"text": "x", "sampling_params": [{}, {}]}, "sampling_params is a list"),
}

PARAMETERS = {
    "bias": ({"logit_bias": {"1": 1e308}}, "logit_bias of token 1"),
    "bias token": ({"logit_bias": {"x": 1}}, "logit_bias names token 'x'"),
    "schema": ({"json_schema": "{"}, "json_schema cannot be used"),
    "schema type": ({"json_schema": '{"type": "foo"}'}, "Unsupported type"),
    "schema nested": ({"json_schema": nested(400)}, "nested more than 128 levels"),
    "schema of nothing": ({"json_schema": '{"$ref": "#"}'}, "nothing satisfies it"),
    "schema that needs itself": ({"json_schema": json.dumps(SELF_NEEDED)}, "nothing satisfies it"),
    "schema too long": ({"json_schema": '"' + "x" * 70_000 + '"'}, "70002 characters, more than 65536"),
    "regex": ({"regex": "((("}, "regex cannot be used"),
    "regex nested": ({"regex": "(" * 30_000 + "a" + ")" * 30_000}, "regex cannot be used"),
    "grammar": ({"ebnf": "root ::="}, "ebnf cannot be used"),
    "grammar of nothing": ({"ebnf": 'root ::= root "a"'}, "nothing satisfies it"),
    "tag": ({"structural_tag": "{}"}, "structural_tag cannot be used"),
    "stop": ({"stop_regex": "((("}, "stop_regex '(((' cannot be used"),
    "stop looks around": ({"stop_regex": "(?=a)b"}, "a look-around cannot be matched in linear time"),
    "stop repeats": ({"stop_regex": "(a{1000}){1000}"}, "stop_regex"),
    "empty stop": ({"stop": ["a", ""]}, "stop contains an empty text"),
    "many stops": ({"stop": ["a"] * 1000}, "stop has 1000 entries"),
    "long stop": ({"stop": "a" * 10_000}, "stop has 10000 characters"),
    "no samples": ({"n": 0}, "n is 0: it must be a whole number from 1 to 128"),
    "samples below none": ({"n": -1}, "n is -1"),
    "many samples": ({"n": 10**9}, "n is 1000000000"),
    "number as text": ({"temperature": "hot"}, "temperature is 'hot'"),
    "top k": ({"top_k": 10**18}, "top_k is 1000000000000000000"),
    "interval": ({"stream_interval": 0}, "stream_interval is 0"),
    "seed": ({"sampling_seed": 10**30}, "sampling_seed is"),
    "stop token": ({"stop_token_ids": [10**9]}, "token id 1000000000 does not exist"),
    "internal parameter": ({"is_normalized": True}, "no sampling parameter 'is_normalized'"),
    "misspelt": ({"temprature": 1}, "did you mean 'temperature'?"),
    "nested parameters": ({"custom_params": {"a": {"b": {"c": 1}}}}, "nested too deeply"),
}

CALLS = BODIES | {name: ({"text": "x", "sampling_params": params}, said) for name, (params, said) in PARAMETERS.items()}


@pytest.mark.parametrize("path", ["/generate", "/modules/math/generate"])
@pytest.mark.parametrize("name", CALLS)
def test_a_hostile_call_is_refused_and_disturbs_nobody(random_server: RunningDeployment, name: str, path: str) -> None:
    body, said = CALLS[name]
    reply = httpx.post(random_server.url + path, json={"lora_path": "math", **body}, timeout=60)
    assert reply.status_code == 400, reply.text
    assert said in reply.text
    assert_serves(random_server)


def assert_serves(server: RunningDeployment) -> None:
    """One token, from the scheduler."""
    body = {"model": "math", "prompt": "x", "max_tokens": 2}
    assert httpx.post(f"{server.url}/v1/completions", json=body, timeout=60).status_code == 200


def test_an_ambiguous_grammar_holds_up_nobody(random_server: RunningDeployment) -> None:
    """One token of it takes a scheduler more than ten seconds; health is asked while it is tried out."""
    replies: list[httpx.Response] = []
    params = {"regex": "(.{0,1000}){0,1000}b", "max_new_tokens": 4}

    def ask() -> None:
        body = {"text": "x", "lora_path": "math", "sampling_params": params}
        replies.append(httpx.post(f"{random_server.url}/generate", json=body, timeout=120))

    asker = threading.Thread(target=ask)
    asker.start()
    num_served = 0
    while asker.is_alive():
        assert_serves(random_server)
        num_served += 1
        time.sleep(0.05)
    asker.join()
    assert replies[0].status_code == 400
    assert "regex cannot be used" in replies[0].text
    assert num_served > 1


def test_a_stop_pattern_takes_linear_time(random_server: RunningDeployment) -> None:
    """With an engine that tries every way to match, 200 equal tokens would take longer than the universe is old."""
    body = {
        "input_ids": [5],
        "lora_path": "math",
        "sampling_params": {
            "max_new_tokens": 200,
            "temperature": 0,
            "ignore_eos": True,
            "logit_bias": {"90": 100},
            "stop_regex": "(.+.+)+\\d\\d\\d\\d\\d\\d\\d\\d\\d\\d\\dy",
        },
    }
    reply = httpx.post(f"{random_server.url}/generate", json=body, timeout=300)
    assert reply.json()["meta_info"]["completion_tokens"] == 200, reply.text


def test_a_stop_pattern_stops_the_answer(random_server: RunningDeployment) -> None:
    body = {"text": "x", "lora_path": "math", "sampling_params": {"max_new_tokens": 9, "ignore_eos": True}}
    free = httpx.post(f"{random_server.url}/generate", json=body, timeout=60).json()
    assert free["meta_info"]["completion_tokens"] == 9
    body["sampling_params"] = {"max_new_tokens": 9, "ignore_eos": True, "stop_regex": "(?s)."}
    stopped = httpx.post(f"{random_server.url}/generate", json=body, timeout=60).json()
    assert stopped["meta_info"]["finish_reason"]["matched"] == "(?s)."
    assert stopped["meta_info"]["completion_tokens"] < 9


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_that_the_scheduler_refuses_does_not_begin(random_server: RunningDeployment, stream: bool) -> None:
    """Its stream would say 200, and begin with a token that is sampled behind no prompt."""
    body = {"input_ids": [5, 6, 7], "return_logprob": True, "logprob_start_len": 80, "stream": stream}
    reply = httpx.post(f"{random_server.url}/generate", json={**body, "lora_path": "math"}, timeout=60)
    assert reply.status_code == 400
    assert "logprob_start_len=80 is higher than the number of input tokens" in reply.json()["error"]["message"]
    assert_serves(random_server)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_cannot_go_on_is_an_error(random_server: RunningDeployment, stream: bool) -> None:
    """One of many ways leads to a dead end; the trial does not happen to take it, and the answer is made to."""
    asked = {"model": "math", "prompt": "z"}
    (z,) = httpx.post(f"{random_server.url}/v1/tokenize", json=asked, timeout=60).json()["tokens"]
    grammar = 'root ::= [a-y]+ | "z" dead\n' + 'dead ::= dead "x"'
    params = {"ebnf": grammar, "max_new_tokens": 20, "temperature": 0, "logit_bias": {z: 100}}
    body = {"text": "x", "lora_path": "math", "sampling_params": params, "stream": stream}
    reply = httpx.post(f"{random_server.url}/generate", json=body, timeout=60)
    assert "the answer cannot follow ebnf (no token satisfies it after 1 tokens" in reply.text
    assert reply.status_code == (200 if stream else 400)
    assert_serves(random_server)


@pytest.mark.parametrize("sampling", [{"temperature": 0}, {"temperature": 1}, {"top_k": 5, "sampling_seed": 7}])
def test_a_length_that_a_grammar_does_not_allow_is_an_error(
    random_server: RunningDeployment, sampling: dict[str, Any]
) -> None:
    """Where the answer has to end by the one and must not by the other, no token is left, and nothing can be drawn."""
    params = {"regex": "[a-c]", "min_new_tokens": 9, "max_new_tokens": 20, **sampling}
    body = {"text": "x", "lora_path": "math", "sampling_params": params}
    reply = httpx.post(f"{random_server.url}/generate", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert "the answer cannot follow regex (no token satisfies it after 1 tokens" in reply.text
    assert_serves(random_server)
