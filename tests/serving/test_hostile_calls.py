"""Calls that ended the scheduler of SGLang as released get 400 with a reason, and the server serves on."""

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment

BODIES = {
    "negative id": ({"input_ids": [1, -5]}, "token id -5 does not exist"),
    "huge id": ({"input_ids": [1, 2**31 - 1]}, "token id 2147483647 does not exist"),
    "no number": ({"input_ids": [1, 2.5]}, ""),
    "top logprobs": ({"text": "x", "return_logprob": True, "top_logprobs_num": 10**6}, "top_logprobs_num is 1000000"),
    "bias": ({"text": "x", "sampling_params": {"logit_bias": {"1": 1e308}}}, "logit_bias of token 1"),
    "schema": ({"text": "x", "sampling_params": {"json_schema": "{"}}, "json_schema cannot be used"),
    "schema type": ({"text": "x", "sampling_params": {"json_schema": '{"type": "foo"}'}}, "Unsupported type"),
    "regex": ({"text": "x", "sampling_params": {"regex": "((("}}, "regex cannot be used"),
    "grammar": ({"text": "x", "sampling_params": {"ebnf": "root ::="}}, "ebnf cannot be used"),
    "stop": ({"text": "x", "sampling_params": {"stop_regex": "((("}}, "stop_regex cannot be used"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_call_is_refused_and_disturbs_nobody(random_server: RunningDeployment, name: str) -> None:
    body, said = BODIES[name]
    reply = httpx.post(f"{random_server.url}/generate", json={"lora_path": "math", **body}, timeout=60)
    assert reply.status_code == 400, reply.text
    assert said in reply.text
    body = {"model": "math", "prompt": "x", "max_tokens": 2}
    assert httpx.post(f"{random_server.url}/v1/completions", json=body, timeout=60).status_code == 200
