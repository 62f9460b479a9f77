"""docs/api.md says what each topology answers; here both are asked."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from prefillshare.serving.launch import RunningDeployment
from tests.cluster.conftest import Cluster

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"(?<=<!-- made by tests/cluster/test_doors_table.py -->\n\n)\|.*?(?=\n\n)", re.DOTALL)

MESSAGES = [{"role": "user", "content": "Omar 3 boxes"}]
CHAT = {"model": "math", "messages": MESSAGES, "max_tokens": 2}
TEXT = {"model": "math", "prompt": "Omar 3 boxes", "max_tokens": 2}
NATIVE: dict[str, Any] = {"text": "Omar 3 boxes", "lora_path": "math", "sampling_params": {"max_new_tokens": 2}}
MESSAGE = {"model": "math", "messages": MESSAGES, "max_tokens": 2}
RESPONSE = {"model": "math", "input": "Omar 3 boxes", "max_output_tokens": 2}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"enum": ["box"]}}}
FORMAT = {"format": {"type": "json_schema", "name": "s", "schema": {"enum": ["box"]}}}

AHEAD = {"kv_hints": {"prefetch": True}}


@dataclass(frozen=True, kw_only=True)
class Door:
    """One row of the table."""

    what: str
    method: str = "POST"
    path: str
    body: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def door(what: str, path: str, body: Mapping[str, Any] | None = None, *, method: str = "POST", **headers: str) -> Door:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Door(what=what, method=method, path=path, body=body, headers=named)


def chat(what: str, **fields: Any) -> Door:
    return door(what, "/v1/chat/completions", CHAT | fields)


DOORS = [
    chat("an answer"),
    chat("streamed", stream=True),
    chat("several answers (`n`)", n=2),
    chat("log-probabilities of the answer", logprobs=True, top_logprobs=2),
    chat("tools", tools=[{"type": "function", "function": FUNCTION}], tool_choice="required"),
    chat("a form of the answer (`response_format`)", response_format=SCHEMA),
    chat("its prompt alone, ahead (`prefetch`)", **AHEAD),
    chat("the prefill module itself as `model`", model="BASE"),
    door("an answer", "/v1/completions", TEXT),
    door("several prompts, several answers (`n`)", "/v1/completions", TEXT | {"prompt": ["a", "b"], "n": 2}),
    door("`echo`", "/v1/completions", TEXT | {"echo": True}),
    door("`echo` with log-probabilities of the prompt", "/v1/completions", TEXT | {"echo": True, "logprobs": 1}),
    door("its prompt alone, ahead (`prefetch`)", "/v1/completions", TEXT | AHEAD),
    door("an answer", "/v1/responses", RESPONSE),
    door("streamed", "/v1/responses", RESPONSE | {"stream": True}),
    door("that goes on (`previous_response_id`)", "/v1/responses", RESPONSE | {"previous_response_id": "KEPT"}),
    door("in the background", "/v1/responses", RESPONSE | {"background": True}),
    door("a form of the answer (`text.format`)", "/v1/responses", RESPONSE | {"text": FORMAT}),
    door("its prompt alone, ahead (`prefetch`)", "/v1/responses", RESPONSE | AHEAD),
    door("read again", "/v1/responses/KEPT", method="GET"),
    door("its input", "/v1/responses/KEPT/input_items", method="GET"),
    door("deleted", "/v1/responses/KEPT", method="DELETE"),
    door("an answer", "/v1/messages", MESSAGE),
    door("streamed", "/v1/messages", MESSAGE | {"stream": True}),
    door("its prompt alone, ahead (`prefetch`)", "/v1/messages", MESSAGE | AHEAD),
    door("tokens counted", "/v1/messages/count_tokens", {"model": "math", "messages": MESSAGES}),
    door("an answer", "/generate", NATIVE),
    door("several answers (`n`)", "/generate", NATIVE | {"sampling_params": {"max_new_tokens": 2, "n": 2}}),
    door(
        "log-probabilities of the prompt with the answer",
        "/generate",
        NATIVE | {"return_logprob": True, "logprob_start_len": 0},
    ),
    door(
        "log-probabilities of the prompt alone",
        "/generate",
        NATIVE | {"return_logprob": True, "logprob_start_len": 0, "sampling_params": {"max_new_tokens": 0}},
    ),
    door("its prompt alone, ahead (`prefetch`)", "/generate", NATIVE | AHEAD),
    door(
        "of a module by its address", "/modules/math/generate", {"text": "a", "sampling_params": {"max_new_tokens": 2}}
    ),
    door("text into tokens", "/tokenize", {"model": "math", "prompt": "a"}),
    door("a chat into tokens", "/v1/tokenize", {"model": "math", "messages": MESSAGES}),
    door("tokens into text", "/detokenize", {"model": "math", "tokens": [5, 6]}),
    door("the models", "/v1/models", method="GET"),
    door("one of them", "/v1/models/math", method="GET"),
    door("the modules", "/modules", method="GET"),
    door("the model", "/model_info", method="GET"),
    door("the server", "/server_info", method="GET"),
    door("health", "/health", method="GET"),
    door("health", "/health", method="HEAD"),
    door("numbers for people", "/deployment/state", method="GET"),
    door("numbers for Prometheus", "/metrics", method="GET"),
    door("a call from a page", "/v1/models", method="OPTIONS", Origin="http://p", Access_Control_Request_Method="GET"),
    door("how calls are spread", "/router/state", method="GET"),
    door("the workers", "/workers", method="GET"),
    door("Ollama's chat of a decode module", "/api/chat", {"model": "math", "messages": MESSAGES, "stream": False}),
    door("vectors of texts", "/v1/embeddings", {"model": "math", "input": "a"}),
]


def answer(url: str, one: Door, base: str, kept: str) -> str:
    """ "yes", or the status."""
    body = (
        None
        if one.body is None
        else {name: {"BASE": base, "KEPT": kept}.get(str(value), value) for name, value in one.body.items()}
    )
    path = one.path.replace("KEPT", kept)
    given = {} if body is None else {"json": body}
    reply = httpx.request(one.method, url + path, headers=dict(one.headers), timeout=60, **given)  # type: ignore[arg-type]
    return "yes" if reply.status_code == 200 else f"no ({reply.status_code})"


def column(url: str, base: str) -> list[str]:
    kept = httpx.post(f"{url}/v1/responses", json=RESPONSE, timeout=60).json()["id"]
    return [answer(url, one, base, kept) for one in DOORS]


def test_the_page_says_what_each_topology_answers(cluster: Cluster, random_server: RunningDeployment) -> None:
    columns = [column(random_server.url, "random-base"), column(cluster.running.url, "tiny-base")]
    rows = [
        f"| `{one.method} {re.sub('KEPT', '{id}', one.path)}` | {one.what} | {engine} | {router} |"
        for one, engine, router in zip(DOORS, *columns, strict=True)
    ]
    table = "\n".join(["| call | what | one engine | router before workers |", "|---|---|---|---|", *rows])
    found = BLOCK.search(PAGE.read_text())
    assert found is not None, f"write this into {PAGE}:\n{table}"
    assert found[0] == table, f"write this into {PAGE}:\n{table}"
