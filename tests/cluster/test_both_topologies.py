"""The same mistakes to one engine and to a router before workers: the same kind of status, the same form, a reason."""

import gzip
import json
from typing import Any

import httpx
import pytest

from prefillshare.serving.launch import RunningDeployment
from tests.cluster.conftest import MODULES as NAMES
from tests.cluster.conftest import Cluster
from tests.support.state_document import mistakes_in

CHAT = {"model": "math", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TEXT = {"text": "hi", "lora_path": "math", "sampling_params": {"max_new_tokens": 2}}
CHAT_PATH, TEXT_PATH = "/v1/chat/completions", "/generate"
JSON = {"Content-Type": "application/json"}
_NO_FIELDS_OF_A_TOOL = {"description": None, "parameters": None, "strict": None}
WITHOUT_MODEL = {name: value for name, value in CHAT.items() if name != "model"}

FIELDS: list[dict[str, Any]] = [
    {"model": None},
    {"model": ""},
    {"model": "default"},
    {"model": "nope"},
    {"model": 5},
    {"model": ["math"]},
    {"messages": []},
    {"messages": "hi"},
    {"messages": [5]},
    {"messages": [{"role": "nope", "content": "x"}]},
    {"messages": [{"role": "user", "content": 5}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"temperature": -1},
    {"temperature": "warm"},
    {"top_p": 0},
    {"top_k": -5},
    {"min_p": 2},
    {"max_tokens": -1},
    {"max_tokens": 1.5},
    {"max_tokens": 10**7},
    {"max_tokens": 10**30},
    {"min_tokens": 50},
    {"frequency_penalty": 9},
    {"repetition_penalty": 0},
    {"logprobs": "a"},
    {"logprobs": True, "top_logprobs": -1},
    {"logit_bias": {"a": 1}},
    {"logit_bias": {"999999": 1}},
    {"stop": [1]},
    {"stop_regex": "("},
    {"stream_options": 5},
    {"tools": [{}]},
    {"tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"response_format": {"type": "nope"}},
    {"seed": "a"},
    {"seed": 2**70},
    {"user": {"name": "a"}},
    {"lora_path": 5},
    {"cache_salt": ["a"]},
    {"extra_key": 5},
]
REQUESTS: dict[str, tuple[str, str, bytes, dict[str, str]]] = {
    **{json.dumps(fields)[:60]: ("POST", CHAT_PATH, json.dumps(CHAT | fields).encode(), JSON) for fields in FIELDS},
    "no model": ("POST", CHAT_PATH, json.dumps(WITHOUT_MODEL).encode(), JSON),
    "no model, completion": ("POST", "/v1/completions", b'{"prompt": "hi"}', JSON),
    "a list": ("POST", CHAT_PATH, b"[1]", JSON),
    "a number": ("POST", CHAT_PATH, b"5", JSON),
    "null": ("POST", CHAT_PATH, b"null", JSON),
    "compressed": ("POST", CHAT_PATH, gzip.compress(json.dumps(CHAT).encode()), JSON | {"Content-Encoding": "gzip"}),
    "plain, said to be gzip": ("POST", CHAT_PATH, json.dumps(CHAT).encode(), JSON | {"Content-Encoding": "gzip"}),
    "plain, said to be br": ("POST", CHAT_PATH, json.dumps(CHAT).encode(), JSON | {"Content-Encoding": "br"}),
    "embeddings": ("POST", "/v1/embeddings", b'{"model": "math", "input": "hi"}', JSON),
    "rerank": ("POST", "/v1/rerank", b'{"model": "math", "query": "hi", "documents": ["a"]}', JSON),
    "classify": ("POST", "/v1/classify", b'{"model": "math", "input": "hi"}', JSON),
    "encode": ("POST", "/encode", b'{"text": "hi"}', JSON),
    "kind of number": (
        "POST",
        TEXT_PATH,
        json.dumps(TEXT | {"sampling_params": {"max_new_tokens": "a"}}).encode(),
        JSON,
    ),
    "no JSON": ("POST", CHAT_PATH, b"hello", JSON),
    "nothing": ("POST", CHAT_PATH, b"", JSON),
    "half": ("POST", CHAT_PATH, json.dumps(CHAT).encode()[:-5], JSON),
    "latin-1": ("POST", CHAT_PATH, json.dumps(CHAT).replace("hi", "café").encode("latin-1"), JSON),
    "UTF-16": ("POST", CHAT_PATH, json.dumps(CHAT).encode("utf-16"), JSON),
    "lone surrogate": ("POST", CHAT_PATH, json.dumps(CHAT).replace("hi", r"\ud800").encode(), JSON),
    "NaN": ("POST", CHAT_PATH, json.dumps(CHAT | {"temperature": float("nan")}).encode(), JSON),
    "other type": ("POST", CHAT_PATH, json.dumps(CHAT).encode(), {"Content-Type": "text/plain"}),
    "charset": ("POST", CHAT_PATH, json.dumps(CHAT).encode(), {"Content-Type": "application/json; charset=latin-1"}),
    "no path": ("GET", "/v1/nothing", b"", {}),
    "no model card": ("GET", "/v1/models/nope", b"", {}),
    "no module": ("POST", "/modules/nope/generate", json.dumps(TEXT).encode(), JSON),
    "other method": ("DELETE", CHAT_PATH, b"", {}),
    "unknown adapter": ("POST", TEXT_PATH, json.dumps(TEXT | {"lora_path": "nope"}).encode(), JSON),
    "token id": ("POST", TEXT_PATH, json.dumps({"input_ids": [-1], "lora_path": "math"}).encode(), JSON),
    "no text": ("POST", TEXT_PATH, json.dumps(TEXT | {"text": ""}).encode(), JSON),
}


def _ask(url: str, name: str) -> httpx.Response:
    method, path, body, headers = REQUESTS[name]
    return httpx.request(method, url + path, content=body, headers=headers, timeout=60)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_mistake_is_the_clients_and_says_why(cluster: Cluster, random_server: RunningDeployment, name: str) -> None:
    for url in (cluster.running.url, random_server.url):
        reply = _ask(url, name)
        assert 400 <= reply.status_code < 500, f"{url}: {reply.status_code} {reply.text}"
        error = reply.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}, reply.text
        assert error["type"] == "invalid_request_error"
        assert error["message"]
        assert 'File "' not in error["message"], "a path of the server is nobody's business"
        assert isinstance(error["code"], str | None)


def test_no_mistake_counted_against_a_worker(cluster: Cluster) -> None:
    before = cluster.state()
    for name in REQUESTS:
        _ask(cluster.running.url, name)
    after = cluster.state()
    assert after["counters"]["retries"] == before["counters"]["retries"]
    assert [worker["failed"] for worker in after["workers"]] == [worker["failed"] for worker in before["workers"]]
    assert {worker["breaker"] for worker in after["workers"]} == {"closed"}


def test_a_field_that_is_wrong_is_named(cluster: Cluster, random_server: RunningDeployment) -> None:
    for url in (cluster.running.url, random_server.url):
        error = httpx.post(url + CHAT_PATH, json=CHAT | {"seed": "a"}, timeout=60).json()["error"]
        assert (error["param"], error["message"][:5]) == ("seed", "seed:")
        assert "it is 'a'" in error["message"]


@pytest.mark.parametrize(
    ("path", "prompt", "names"),
    [
        (CHAT_PATH, {"messages": CHAT["messages"]}, "parallel_tool_calls tools tool_choice response_format seed store"),
        ("/v1/completions", {"prompt": "hi"}, "echo suffix best_of user"),
    ],
)
def test_null_means_what_nothing_means(
    cluster: Cluster, random_server: RunningDeployment, path: str, prompt: dict[str, Any], names: str
) -> None:
    """OpenAI's API allows null for whatever need not be there, and clients send it."""
    shared = "frequency_penalty presence_penalty logprobs top_p n stream stream_options stop logit_bias user"
    call = {"model": "math", "max_tokens": 2, "temperature": 0, **prompt}
    for url in (cluster.running.url, random_server.url):
        replies = [
            httpx.post(url + path, json=call | nulls, timeout=60)
            for nulls in ({}, dict.fromkeys(f"{shared} {names}".split()), {"temperature": None, "seed": None})
        ]
        assert [reply.status_code for reply in replies] == [200] * 3, replies[1].text + replies[2].text
        assert replies[0].json()["choices"] == replies[1].json()["choices"]


def test_null_in_a_tool_means_what_nothing_means(cluster: Cluster, random_server: RunningDeployment) -> None:
    tools = [{"type": "function", "function": {"name": "now"} | nulls} for nulls in ({}, _NO_FIELDS_OF_A_TOOL)]
    for url in (cluster.running.url, random_server.url):
        replies = [httpx.post(url + CHAT_PATH, json=CHAT | {"tools": [tool]}, timeout=60) for tool in tools]
        assert [reply.status_code for reply in replies] == [200, 200], replies[1].text
        assert replies[0].json()["usage"]["prompt_tokens"] == replies[1].json()["usage"]["prompt_tokens"]


def test_models_stand_in_the_order_of_the_file(cluster: Cluster, random_server: RunningDeployment) -> None:
    """Whichever was called last; the prefill module answers for itself where it decodes, and says why elsewhere."""
    for url in (cluster.running.url, random_server.url):
        for module in reversed(NAMES):
            assert httpx.post(url + CHAT_PATH, json=CHAT | {"model": module}, timeout=60).status_code == 200
    names = {url: _models(url) for url in (cluster.running.url, random_server.url)}
    assert names == {cluster.running.url: [*NAMES], random_server.url: ["random-base", *NAMES]}
    assert httpx.get(f"{random_server.url}/modules", timeout=60).json()["decode"] == [*NAMES]
    base = httpx.post(random_server.url + CHAT_PATH, json=CHAT | {"model": "random-base"}, timeout=60)
    assert base.status_code == 200
    base = httpx.post(cluster.running.url + CHAT_PATH, json=CHAT | {"model": "tiny-base"}, timeout=60)
    assert base.status_code == 404
    assert "is the prefill module, which never decodes here" in base.json()["error"]["message"]


def _models(url: str) -> list[str]:
    return [card["id"] for card in httpx.get(f"{url}/v1/models", timeout=60).json()["data"]]


@pytest.mark.parametrize("name", ["café".encode(), "café".encode("latin-1")], ids=["utf-8", "latin-1"])
def test_a_session_has_one_name_everywhere(cluster: Cluster, random_server: RunningDeployment, name: bytes) -> None:
    for url in (cluster.running.url, random_server.url):
        reply = httpx.post(url + CHAT_PATH, json=CHAT, headers=[(b"X-Session-ID", name)], timeout=60)  # type: ignore[arg-type]
        assert reply.status_code == 200
        state = httpx.get(f"{url}/deployment/state", timeout=60)
        assert state.status_code == 200
        assert mistakes_in(state.json()) == []
        assert "café" in [session["id"] for session in state.json()["sessions"]["items"]]
        assert httpx.get(f"{url}/metrics", timeout=60).status_code == 200
