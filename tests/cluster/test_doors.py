"""What one engine answers, a router before workers answers alike: samples, scores of the prompt, tokens, and errors."""

import json
from typing import Any

import httpx
import pytest

from tests.support.doors import CHAT, MESSAGES, QUESTION, answers, ask, events
from tests.support.state_document import mistakes_in

PROMPTS = ["Omar 3 boxes, beads", "Lena's shelf grows by 4"]
TOLERANCE = 1e-4
"""Of log-probabilities of one prompt, computed in batches of different shapes."""


def test_samples_are_what_single_calls_get(url: str) -> None:
    (alone,) = answers(ask(url, "/v1/chat/completions", CHAT))
    reply = ask(url, "/v1/chat/completions", CHAT | {"n": 3})
    assert answers(reply) == [alone] * 3
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert reply["usage"]["completion_tokens"] == 3 * CHAT["max_tokens"]
    streamed = {0: "", 1: "", 2: ""}
    for event in events(url, "/v1/chat/completions", CHAT | {"n": 3}):
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert set(streamed.values()) == {alone}


def test_samples_of_a_seed_differ_and_come_again(url: str) -> None:
    call = CHAT | {"n": 4, "temperature": 1.5, "seed": 7}
    first = answers(ask(url, "/v1/chat/completions", call))
    assert len(set(first)) > 1
    assert answers(ask(url, "/v1/chat/completions", call)) == first
    assert answers(ask(url, "/v1/chat/completions", call | {"n": 1})) == first[:1]


def test_samples_of_a_batch_come_prompt_by_prompt_with_their_echo(url: str) -> None:
    call = {"model": "math", "max_tokens": 4, "temperature": 0, "echo": True}
    alone = [ask(url, "/v1/completions", call | {"prompt": prompt})["choices"][0]["text"] for prompt in PROMPTS]
    assert [text.startswith(prompt) for text, prompt in zip(alone, PROMPTS, strict=True)] == [True, True]
    choices = ask(url, "/v1/completions", call | {"prompt": PROMPTS, "n": 2})["choices"]
    assert [choice["text"] for choice in choices] == [alone[0], alone[0], alone[1], alone[1]]


def test_scores_of_the_prompt_come_with_the_answer(url: str) -> None:
    """As they are without an answer, whoever of the samples and the prompts they stand with."""
    scored = {"text": PROMPTS, "return_logprob": True, "logprob_start_len": 0, "top_logprobs_num": 2}
    alone = ask(url, "/generate", {**scored, "sampling_params": {"max_new_tokens": 0}})
    call = {**scored, "lora_path": "math", "sampling_params": {"max_new_tokens": 3, "temperature": 0, "n": 2}}
    replies = ask(url, "/generate", call)
    assert [len(reply["output_ids"]) for reply in replies] == [3] * 4
    for place, reply in enumerate(replies):
        same_scores(alone[place // 2]["meta_info"], reply["meta_info"])
    for event in events(url, "/generate", call):
        same_scores(alone[event["index"] // 2]["meta_info"], event["meta_info"])


def same_scores(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert len(one["input_token_logprobs"]) == len(other["input_token_logprobs"]) > 3
    pairs = list(zip(one["input_token_logprobs"], other["input_token_logprobs"], strict=True))
    assert [first[1] for first, _ in pairs] == [second[1] for _, second in pairs]
    worst = max(abs(first[0] - second[0]) for first, second in pairs[1:])
    print(f"largest difference of a log-probability: {worst:.2e}")
    assert worst < TOLERANCE
    assert len(other["input_top_logprobs"]) == len(pairs)


def test_scores_stand_with_the_echo_of_a_completion(url: str) -> None:
    call = {"model": "math", "prompt": PROMPTS[0], "max_tokens": 3, "temperature": 0, "echo": True, "logprobs": 2}
    (choice,) = ask(url, "/v1/completions", call)["choices"]
    tokens = ask(url, "/tokenize", {"model": "math", "prompt": PROMPTS[0]})["count"]
    assert "".join(choice["logprobs"]["tokens"]) == choice["text"]
    assert len(choice["logprobs"]["token_logprobs"]) == tokens + 3
    assert choice["logprobs"]["token_logprobs"][0] is None
    first = events(url, "/v1/completions", call)[0]["choices"][0]
    assert first["text"].startswith(PROMPTS[0])
    assert first["logprobs"]["tokens"] == choice["logprobs"]["tokens"][: len(first["logprobs"]["tokens"])]
    reply = httpx.post(url + "/v1/completions", json=call | {"logprobs": 0}, timeout=60)
    assert (reply.status_code, "logprobs is 0 with echo" in reply.text) == (400, True)


@pytest.mark.parametrize("start", ["", "/v1"])
def test_tokens_and_back(url: str, start: str) -> None:
    told = ask(url, f"{start}/tokenize", {"model": "math", "prompt": QUESTION})
    assert told["count"] == len(told["tokens"]) > 10
    assert ask(url, f"{start}/detokenize", {"model": "math", "tokens": told["tokens"]})["text"] == QUESTION
    chat = ask(url, f"{start}/tokenize", {"messages": MESSAGES})["count"]
    assert chat == ask(url, "/v1/chat/completions", CHAT)["usage"]["prompt_tokens"]
    for body, status in (
        ({"model": "nope", "prompt": "a"}, 404),
        ({"model": "math"}, 400),
        ({"model": "math", "prompt": 5}, 400),
        ({"model": 5, "prompt": "a"}, 400),
    ):
        reply = httpx.post(url + start + "/tokenize", json=body, timeout=60)
        assert (reply.status_code, set(reply.json())) == (status, {"error"}), reply.text
    wrong = httpx.post(url + start + "/detokenize", json={"model": "math", "tokens": [10**9]}, timeout=60)
    assert (wrong.status_code, "1000000000" in wrong.text) == (400, True)


def test_an_answer_in_a_form_ends(url: str) -> None:
    """The tiny family's module would go on with white space."""
    either = {"enum": ["box", "pen"]}
    schema = {"type": "object", "properties": {"of": either, "in": either}, "required": ["of", "in"]}
    form = {"type": "json_schema", "json_schema": {"name": "thing", "schema": schema | {"additionalProperties": False}}}
    (choice,) = ask(url, "/v1/chat/completions", CHAT | {"max_tokens": 150, "response_format": form})["choices"]
    assert choice["finish_reason"] == "stop"
    assert set(json.loads(choice["message"]["content"])) == {"of", "in"}


def test_who_asks_for_a_path_that_is_not_there_learns_which_are(url: str) -> None:
    for path, meant in (("/chat/completions", "/v1/chat/completions"), ("/v1/model", "/v1/models")):
        reply = httpx.post(url + path, json=CHAT, timeout=60)
        message = reply.json()["error"]["message"]
        assert reply.status_code == 404
        assert message.startswith(f"there is no {path} here; did you mean {meant}? There are: /v1/chat/completions, ")
    reply = httpx.get(f"{url}/v1/chat/completions", timeout=60)
    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")
    assert reply.json()["error"]["message"] == "/v1/chat/completions does not take GET: use POST"


def test_pages_in_browsers_may_call(url: str) -> None:
    asks = {"Origin": "http://page", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-a"}
    reply = httpx.options(f"{url}/v1/chat/completions", headers=asks, timeout=60)
    assert (reply.status_code, reply.headers["Access-Control-Allow-Headers"]) == (200, "x-a")
    assert "POST" in reply.headers["Access-Control-Allow-Methods"]
    page = httpx.get(f"{url}/v1/models", headers={"Origin": "http://page"}, timeout=60)
    assert page.headers["Access-Control-Allow-Origin"] in ("*", "http://page")


def test_health_is_told_by_its_head(url: str) -> None:
    reply = httpx.head(f"{url}/health", timeout=60)
    assert (reply.status_code, reply.content) == (200, b"")
    assert mistakes_in(httpx.get(f"{url}/deployment/state", timeout=60).json()) == []
