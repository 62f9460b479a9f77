"""`"model": "auto"` by a classifier across workers: one looks at the prompt, the router chooses, another answers."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import orjson
import pytest
from transformers import AutoTokenizer

from prefillshare.tiny.language.chatml import generation_prompt
from prefillshare.tiny.language.conversations import held_out_conversations
from prefillshare.wire.hidden_states import read_states
from tests.cluster.conftest import MODULES, Cluster
from tests.support.classifiers import AUTO, HEADER, TINY_ROUTER, assert_is_the_choice, assert_stays, plain_state
from tests.support.engines import MODELS_DIR, flush
from tests.support.monitoring import read_state

ADMIN = {"Authorization": "Bearer admin"}
NUM_PROMPTS = 5
"""Of each task."""
STATE_TOLERANCE = 5e-5
CHAT = {
    "model": "auto",
    "messages": [
        {"role": "user", "content": "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"}
    ],
    "max_tokens": 8,
    "temperature": 0,
}


def set_alias(cluster: Cluster, meaning: object, name: str = "auto") -> httpx.Response:
    return cluster.http.put(f"/aliases/{name}", json=meaning, headers=ADMIN)


@pytest.fixture
def auto(cluster: Cluster) -> Iterator[Cluster]:
    """The deployment of this folder with an alias that a classifier decides."""
    reply = set_alias(cluster, AUTO)
    assert reply.status_code == 200, reply.text
    yield cluster
    cluster.http.delete("/aliases/auto", headers=ADMIN)


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Held-out prompts of the three tasks, as token ids."""
    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")
    return [
        tokenizer.encode(generation_prompt(conversation.turns(has_last_answer=False)), add_special_tokens=False)
        for task in MODULES
        for conversation in islice(held_out_conversations(11, task), NUM_PROMPTS)
    ]


def generate(cluster: Cluster, prompt: list[int], module: str, num_tokens: int = 12) -> httpx.Response:
    params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    reply = cluster.http.post("/generate", json={"input_ids": prompt, "lora_path": module, "sampling_params": params})
    assert reply.status_code == 200, reply.text
    return reply


def test_choices_are_those_of_plain_transformers(auto: Cluster, prompts: list[list[int]]) -> None:
    flush(auto.http)
    for state in ("cold", "warm"):
        with ThreadPoolExecutor(4) as pool:
            replies = list(pool.map(lambda prompt: generate(auto, prompt, "auto"), prompts))
        chosen = [
            assert_is_the_choice(reply.headers[HEADER], prompt) for reply, prompt in zip(replies, prompts, strict=True)
        ]
        print(
            state,
            "chosen right:",
            sum(chosen[number] == MODULES[number // NUM_PROMPTS] for number in range(15)),
            "of 15",
        )
        assert set(chosen) == set(MODULES)
        named = [generate(auto, prompt, module) for prompt, module in zip(prompts, chosen, strict=True)]
        assert [reply.json()["output_ids"] for reply in replies] == [reply.json()["output_ids"] for reply in named]
        workers = [reply.headers["X-Decode-Worker"] for reply in replies]
        assert workers == [reply.headers["X-Decode-Worker"] for reply in named]
        assert all(HEADER not in reply.headers for reply in named)


def test_a_prefill_worker_tells_the_state_of_the_last_token(auto: Cluster, prompts: list[list[int]]) -> None:
    planned = next(planned for planned in auto.running.workers if planned.worker.role == "prefill")
    body = {
        "input_ids": prompts[:3],
        "bootstrap_host": ["2.2.2.2"] * 3,
        "bootstrap_room": [7, 8, 9],
        "sampling_params": {"max_new_tokens": 5},
        "prefillshare_router": {"choice": "c"},
    }
    key = {"Authorization": f"Bearer {planned.command.api_key}"}
    reply = httpx.post(f"{planned.place.url}/generate", json=body, headers=key, timeout=60)
    assert reply.status_code == 200, reply.text
    found = np.stack([np.array(state) for state in read_states(reply.content)])
    plain = np.stack([plain_state(prompt).numpy() for prompt in prompts[:3]])
    print("largest difference of a state:", float(np.abs(found - plain).max()), "of", float(np.abs(plain).max()))
    np.testing.assert_allclose(found, plain, atol=STATE_TOLERANCE)
    assert [item["meta_info"]["prompt_tokens"] for item in orjson.loads(reply.content)] == list(map(len, prompts[:3]))


def test_every_door_answers_as_the_chosen_module(auto: Cluster) -> None:
    whole = auto.http.post("/v1/chat/completions", json=CHAT)
    assert whole.json()["model"] == "math"
    assert whole.headers["X-Decode-Worker"] == "decode-math-0"
    named = auto.http.post("/v1/chat/completions", json={**CHAT, "model": "math"})
    assert whole.json()["choices"][0]["message"] == named.json()["choices"][0]["message"]
    pieces = list(auto.openai.chat.completions.create(**CHAT, stream=True))
    assert {piece.model for piece in pieces} == {"math"}
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == named.json()["choices"][0]["message"]["content"]
    two = auto.http.post("/v1/chat/completions", json={**CHAT, "n": 2, "logprobs": True}).json()
    assert (two["model"], len(two["choices"])) == ("math", 2)
    for is_stream in (False, True):
        reply = auto.http.post("/v1/messages", json={**CHAT, "stream": is_stream})
        assert reply.headers[HEADER] == whole.headers[HEADER]
        assert '"model":"math"' in reply.text.replace(" ", "")
    asked = CHAT["messages"][0]["content"]  # type: ignore[index]
    response = auto.openai.responses.create(model="auto", input=asked, max_output_tokens=8)
    assert response.model == "math"
    follow_up = auto.openai.responses.create(
        model="auto", input="And then?", previous_response_id=response.id, max_output_tokens=4
    )
    assert follow_up.model in MODULES
    scored = auto.http.post(
        "/v1/completions",
        json={"model": "auto", "prompt": "Omar 3 boxes", "max_tokens": 2, "echo": True, "logprobs": 1},
    )
    assert scored.json()["model"] in MODULES, scored.text
    addressed = auto.http.post(
        "/modules/auto/generate", json={"text": "Omar 3", "sampling_params": {"max_new_tokens": 1}}
    )
    assert addressed.status_code == 200, addressed.text
    assert HEADER in addressed.headers


def test_a_choice_is_counted_and_the_prompt_once(auto: Cluster, prompts: list[list[int]]) -> None:
    def numbers() -> dict[str, int]:
        state = read_state(auto.http)
        modules = {module["name"]: module for module in state["modules"]}
        keys = ("prompt_tokens", "own_hit_tokens", "cross_hit_tokens", "requests")
        told = {key: sum(module[key] for module in modules.values()) for key in keys}
        return told | {"choices": sum(item["calls"] for item in state["choices"]["items"])}

    generate(auto, prompts[0], "auto", 1)
    flush(auto.http)
    before = numbers()
    generate(auto, prompts[1], "auto", 1)
    auto.wait(lambda: numbers()["prompt_tokens"] > before["prompt_tokens"], "the prompt is counted")
    after = numbers()
    grown = {key: after[key] - before[key] for key in after}
    assert grown == {
        "prompt_tokens": len(prompts[1]),
        "own_hit_tokens": 0,
        "cross_hit_tokens": 0,
        "requests": 1,
        "choices": 1,
    }


def test_a_session_stays_with_its_prefill_worker(auto: Cluster) -> None:
    replies = [
        auto.http.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1}, headers={"X-Session-ID": "one"})
        for _ in range(2)
    ]
    assert [reply.json()["model"] for reply in replies] == ["math", "math"]
    items = auto.http.get("/deployment/state").json()["sessions"]["items"]
    assert next(item for item in items if item["id"] == "one")["num_calls"] == 2


def test_what_cannot_be_is_refused_as_for_a_named_module(auto: Cluster) -> None:
    for wrong in (
        {"messages": [{"role": "nope", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x " * 20000}]},
        {"temperature": -1},
    ):
        replies = [
            auto.http.post("/v1/chat/completions", json={**CHAT, **wrong, "model": name}) for name in ("auto", "math")
        ]
        assert [reply.status_code for reply in replies] == [400, 400], [reply.text for reply in replies]
        assert replies[0].json()["error"]["message"] == replies[1].json()["error"]["message"]


def test_clients_cannot_ask_for_states(auto: Cluster) -> None:
    reply = auto.http.post("/v1/chat/completions", json={**CHAT, "prefillshare_router": {"choice": "c"}})
    assert reply.status_code == 400
    assert "for a router and its workers" in reply.json()["error"]["message"]


def test_a_classifier_stays_as_it_was_read(auto: Cluster, tmp_path: Path) -> None:
    chat = {**CHAT, "max_tokens": 1}
    try:
        assert_stays(
            tmp_path / "classifier",
            lambda name, meaning: set_alias(auto, meaning, name),
            lambda: auto.http.post("/v1/chat/completions", json=chat).headers[HEADER],
        )
    finally:
        auto.http.delete("/aliases/other", headers=ADMIN)


def test_a_foreign_classifier_is_refused(auto: Cluster, tmp_path: Path) -> None:
    manifest = json.loads((TINY_ROUTER / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**manifest, "prefill_fingerprint": "sha256:" + "0" * 64}))
    (tmp_path / "router.safetensors").write_bytes((TINY_ROUTER / "router.safetensors").read_bytes())
    reply = set_alias(auto, {**AUTO, "classifier": str(tmp_path)}, "other")
    assert reply.status_code == 400
    assert "has learned the hidden states of the prefill module 000000000000" in reply.json()["error"]["message"]
