"""What one engine answers, a router before workers answers alike: samples, scores of the prompt, tokens, and errors."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment
from tests.cluster.conftest import Cluster
from tests.support.state_document import mistakes_in

QUESTION = "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"
MESSAGES = [{"role": "user", "content": QUESTION}]
CHAT: dict[str, Any] = {"model": "math", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
PROMPTS = ["Omar 3 boxes, beads", "Lena's shelf grows by 4"]
TOLERANCE = 1e-4
"""Of log-probabilities of one prompt, computed in batches of different shapes."""


@pytest.fixture(params=["disaggregated", "colocated"])
def url(request: pytest.FixtureRequest, cluster: Cluster, random_server: RunningDeployment) -> str:
    """Each topology in turn."""
    return cluster.running.url if request.param == "disaggregated" else random_server.url


def ask(url: str, path: str, body: dict[str, Any]) -> Any:
    """The JSON answer, which must be one."""
    reply = httpx.post(url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def events(url: str, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a streamed answer that are JSON."""
    reply = httpx.post(url + path, json={**body, "stream": True}, timeout=60)
    assert reply.status_code == 200, reply.text
    lines = [line.removeprefix("data: ") for line in reply.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def answers(reply: dict[str, Any]) -> list[str]:
    return [choice["message"]["content"] for choice in reply["choices"]]


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
    wait_for(lambda: httpx.get(of_it, timeout=60).json()["status"] in ("completed", "incomplete"))
    long = RESPONSE | {"model": "tool", "background": True, "max_output_tokens": 3000}
    ended = ask(url, "/v1/responses", long)
    assert httpx.post(f"{url}/v1/responses/{ended['id']}/cancel", timeout=60).json()["status"] == "cancelled"
    wait_for(lambda: is_idle(url))
    assert httpx.get(f"{url}/v1/responses/{ended['id']}", timeout=60).json()["status"] == "cancelled"


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_idle(url: str) -> bool:
    workers = httpx.get(f"{url}/deployment/state", timeout=60).json()["workers"]
    return not any(worker["running"] for worker in workers)


def test_a_client_that_leaves_a_response_ends_it(url: str) -> None:
    call = RESPONSE | {"model": "tool", "max_output_tokens": 3000, "stream": True}
    with httpx.stream("POST", f"{url}/v1/responses", json=call, timeout=60) as reply:
        assert next(reply.iter_lines())
    wait_for(lambda: is_idle(url))


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
