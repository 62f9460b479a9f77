"""`"model": "auto"` by a classifier, in one engine: the choice is that of the plain computation, whatever is cached."""

import json
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest

from prefillshare.modules.heads import read_head, write_head
from tests.fidelity.conftest import MODULES, Prompt
from tests.support.classifiers import (
    AUTO,
    HEADER,
    TINY_ROUTER,
    assert_is_the_choice,
    assert_stays,
    plain_probabilities,
    told,
)
from tests.support.engines import MODELS_DIR, TINY_AGENTS, Endpoint, engine_state, shared_engine, with_key
from tests.support.marks import starts_engine
from tests.support.reference import Reference

NUM_TOKENS = 4
NUM_ASKED = 18
"""Prompts of a test, of the three tasks in turn."""
CHUNKED = ("--page-size", "16", "--chunked-prefill-size", "64", "--enable-mixed-chunk")
OTHERS = {"page 16, chunk 64, mixed batches": CHUNKED, "page 1, chunk 64, overlap": ("--chunked-prefill-size", "64")}


@pytest.fixture
def auto(agents: Endpoint) -> Iterator[Endpoint]:
    """The engine of this folder with an alias that a classifier decides."""
    reply = agents.http.put("/aliases/auto", json=AUTO)
    assert reply.status_code == 200, reply.text
    assert reply.json()["aliases"]["auto"]["labels"] == list(MODULES)
    yield agents
    agents.http.delete("/aliases/auto")


@pytest.fixture(scope="module", params=OTHERS)
@starts_engine
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """An engine of another kind, whose file names the classifier."""
    folder = tmp_path_factory.mktemp("classifier")
    file = with_key(TINY_AGENTS, "engine", "overlap_schedule = true", folder)
    table = f'\n[aliases.auto]\ndefault = "math"\nclassifier = "{TINY_ROUTER}"\n'
    file.write_text(file.read_text() + table, encoding="utf-8")
    with shared_engine(file, *OTHERS[request.param]) as endpoint:
        yield endpoint


def ask(endpoint: Endpoint, prompt: Prompt, **fields: Any) -> tuple[httpx.Response, dict[str, Any]]:
    """A greedy continuation by whoever is chosen; the report of it."""
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    body = {"input_ids": list(prompt), "lora_path": "auto", "sampling_params": params, **fields}
    reply = endpoint.http.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return reply, reply.json()["meta_info"]["prefillshare"][0]


class Plain:
    """What each module must say."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self._known: dict[tuple[Prompt, str], list[int]] = {}
        self._lock = threading.Lock()

    def tokens(self, prompt: Prompt, module: str, answer: Sequence[int] = ()) -> list[int]:
        """The reference answer, whatever was answered: computed in one pass where that is right."""
        with self._lock:
            if (prompt, module) not in self._known:
                self._known[prompt, module] = self._reference.ask(module, prompt, NUM_TOKENS, answer).tokens
            return self._known[prompt, module]


@pytest.fixture(scope="session")
def plain(reference: Reference) -> Plain:
    """The reference, asked once for each answer."""
    return Plain(reference)


def check(endpoint: Endpoint, prompt: Prompt, plain: Plain) -> str:
    """Ask, and hold choice and answer against the plain computation; who was chosen."""
    reply, _ = ask(endpoint, prompt)
    module = assert_is_the_choice(reply.headers[HEADER], prompt)
    tokens = reply.json()["output_ids"]
    assert tokens == plain.tokens(prompt, module, tokens)
    return module


def test_choices_are_those_of_plain_transformers(auto: Endpoint, prompts: list[Prompt], plain: Plain) -> None:
    some = prompts[:NUM_ASKED]
    auto.flush()
    cold = [check(auto, prompt, plain) for prompt in some]
    warm = [check(auto, prompt, plain) for prompt in some]
    assert cold == warm
    right = sum(module == MODULES[number % 3] for number, module in enumerate(cold))
    print(f"chosen right: {right} of {NUM_ASKED}")
    assert set(cold) == set(MODULES)


def test_choices_hold_in_chunks_pages_and_mixed_batches(other: Endpoint, prompts: list[Prompt], plain: Plain) -> None:
    some, further = prompts[:NUM_ASKED], prompts[NUM_ASKED : NUM_ASKED + 9]
    other.flush()
    with ThreadPoolExecutor(8) as pool:
        cold = list(pool.map(lambda prompt: check(other, prompt, plain), some))
    assert cold == [check(other, prompt, plain) for prompt in some]
    # Choices among named calls in the same batches.
    asked = [(prompt, MODULES[(number + 1) % 3]) for number, prompt in enumerate(some)]
    with ThreadPoolExecutor(12) as pool:
        chosen = [pool.submit(check, other, prompt, plain) for prompt in further]
        named = list(pool.map(lambda pair: other.generate(*pair, NUM_TOKENS), asked))
    assert [answer.tokens for answer in named] == [plain.tokens(*pair) for pair in asked]
    assert {future.result() for future in chosen} == set(MODULES)


def test_what_a_choice_computes_is_counted_once_and_as_the_modules_own(auto: Endpoint, prompts: list[Prompt]) -> None:
    prompt = prompts[3]
    auto.flush()
    reply, report = ask(auto, prompt)
    module = max(told(reply.headers[HEADER]), key=lambda label: told(reply.headers[HEADER])[label])
    num_shared = len(prompt) - 1
    assert (report["own_hit_tokens"], report["cross_hit_tokens"]) == (0, 0)
    assert report["choice_tokens"] == num_shared
    assert reply.json()["meta_info"]["cached_tokens"] == 0
    # Now the tokens are the module's own, and nothing of the choice is left.
    own = auto.generate(prompt, module, 1)
    assert (own.report["own_hit_tokens"], own.report["cross_hit_tokens"]) == (num_shared, 0)
    cross = auto.generate(prompt, next(name for name in MODULES if name != module), 1)
    assert (cross.report["own_hit_tokens"], cross.report["cross_hit_tokens"]) == (0, num_shared)
    again, report = ask(auto, prompt)
    assert again.json()["meta_info"]["cached_tokens"] == num_shared
    assert report["own_hit_tokens"] == num_shared
    assert "choice_tokens" not in report


def test_nothing_of_a_choice_but_the_prompt_stays_in_the_cache(auto: Endpoint, prompts: list[Prompt]) -> None:
    def held() -> int:
        (worker,) = engine_state(auto.http)["workers"]
        assert worker["kv"]["private_tokens"] == 0
        return worker["kv"]["shared_tokens"]

    prompt = prompts[5]
    auto.flush()
    module = max(plain_probabilities(prompt).items(), key=lambda item: item[1])[0]
    auto.generate(prompt, module, 1)
    named = held()
    auto.flush()
    ask(auto, prompt, sampling_params={"temperature": 0, "max_new_tokens": 1})
    assert held() == named == len(prompt) - 1


def test_each_prompt_of_a_batch_has_its_own_choice(auto: Endpoint, prompts: list[Prompt], plain: Plain) -> None:
    some = prompts[:6]
    body = {
        "input_ids": [list(prompt) for prompt in some],
        "lora_path": ["auto", "code", "auto", "auto", "auto", "math"],
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True},
    }
    reply = auto.http.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    likely = [plain_probabilities(prompt) for prompt in some]
    chosen = [max(each, key=lambda label: each[label]) for each in likely]
    wanted = [chosen[0], "code", chosen[2], chosen[3], chosen[4], "math"]
    assert [answer["output_ids"] for answer in reply.json()] == [
        plain.tokens(prompt, module) for prompt, module in zip(some, wanted, strict=True)
    ]


MESSAGES = [
    {"role": "user", "content": "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"}
]


def test_every_door_answers_as_the_chosen_module(auto: Endpoint) -> None:
    chat = {"model": "auto", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = auto.http.post("/v1/chat/completions", json=chat)
    module = whole.json()["model"]
    assert module == "math"
    named = auto.http.post("/v1/chat/completions", json={**chat, "model": module})
    assert HEADER not in named.headers
    assert "choice_tokens" not in named.json()["metadata"]["prefillshare"]
    assert whole.json()["choices"][0]["message"] == named.json()["choices"][0]["message"]
    assert whole.json()["usage"]["prompt_tokens"] == named.json()["usage"]["prompt_tokens"]
    probabilities = whole.headers[HEADER]
    assert probabilities.startswith("math=")

    stream = auto.openai.chat.completions.create(
        model="auto",
        messages=MESSAGES,
        max_tokens=12,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    pieces = list(stream)
    assert {piece.model for piece in pieces} == {"math"}
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    assert text == named.json()["choices"][0]["message"]["content"]
    assert pieces[-1].usage.completion_tokens == named.json()["usage"]["completion_tokens"]

    two = auto.http.post("/v1/chat/completions", json={**chat, "n": 2, "logprobs": True, "top_logprobs": 2}).json()
    assert (two["model"], len(two["choices"])) == ("math", 2)
    message = {"model": "auto", "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    for is_stream in (False, True):
        reply = auto.http.post("/v1/messages", json={**message, "stream": is_stream})
        assert reply.headers[HEADER] == probabilities
        assert '"model":"math"' in reply.text.replace(" ", "")
    response = auto.openai.responses.create(model="auto", input=MESSAGES[0]["content"], max_output_tokens=12)
    assert response.model == "math"
    follow_up = auto.openai.responses.create(
        model="auto", input="And then?", previous_response_id=response.id, max_output_tokens=4
    )
    assert follow_up.model in MODULES
    completion = auto.http.post(
        "/v1/completions", json={"model": "auto", "prompt": "Omar 3 boxes", "max_tokens": 2, "echo": True}
    )
    assert completion.json()["model"] in MODULES
    assert HEADER in completion.headers
    addressed = auto.http.post(
        "/modules/auto/generate", json={"text": "Omar 3 boxes", "sampling_params": {"max_new_tokens": 1}}
    )
    assert addressed.status_code == 200, addressed.text
    assert HEADER in addressed.headers


def test_rules_go_before_and_doubt_goes_to_the_default(auto: Endpoint, tmp_path: Path) -> None:
    rules = [{"module": "code", "header": "X-Task", "value": "code"}]
    known = read_head(TINY_ROUTER)
    write_head(tmp_path, replace(known, weight=known.weight * 0, bias=known.bias * 0))
    doubtful = {**AUTO, "classifier": str(tmp_path), "default": "tool", "rules": rules, "min_probability": 0.5}
    assert auto.http.put("/aliases/auto", json=doubtful).status_code == 200
    chat = {"model": "auto", "messages": MESSAGES, "max_tokens": 1}
    ruled = auto.http.post("/v1/chat/completions", json=chat, headers={"X-Task": "code"})
    assert (ruled.json()["model"], ruled.headers.get(HEADER)) == ("code", None)
    unsure = auto.http.post("/v1/chat/completions", json=chat)
    assert unsure.json()["model"] == "tool"
    assert max(told(unsure.headers[HEADER]).values()) < 0.5
    auto.http.put("/aliases/auto", json={**doubtful, "min_probability": 0.0})
    likely = told(auto.http.post("/v1/chat/completions", json=chat).headers[HEADER])
    assert auto.http.post("/v1/chat/completions", json=chat).json()["model"] == max(likely, key=likely.__getitem__)


def test_a_call_that_cannot_be_is_refused_as_one_of_a_named_module_is(auto: Endpoint) -> None:
    for wrong in (
        {"messages": [{"role": "nope", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x " * 20000}]},
        {"messages": MESSAGES, "temperature": -1},
        {"messages": MESSAGES, "response_format": {"type": "nope"}},
    ):
        told_of = [
            auto.http.post("/v1/chat/completions", json={"max_tokens": 2, **wrong, "model": model})
            for model in ("auto", "math")
        ]
        assert [reply.status_code for reply in told_of] == [400, 400], [reply.text for reply in told_of]
        assert told_of[0].json()["error"]["message"] == told_of[1].json()["error"]["message"]
    sessions = {"text": "hi", "lora_path": "auto", "session_params": {"id": "a"}}
    assert "name a module, or send the whole" in auto.http.post("/generate", json=sessions).json()["error"]["message"]


def test_callers_cannot_pass_for_choices(auto: Endpoint, prompts: list[Prompt]) -> None:
    marks = {"prefillshare_choice": "a", "prefillshare_chosen": "b"}
    params = {"temperature": 0, "max_new_tokens": 4, "custom_params": marks}
    body = {"input_ids": list(prompts[0]), "lora_path": "math", "sampling_params": params}
    reply = auto.http.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    assert "hidden_states" not in reply.json()["meta_info"]
    assert len(reply.json()["output_ids"]) == 4


def test_choices_are_counted_and_calls_once(auto: Endpoint) -> None:
    def numbers() -> tuple[int, int, int]:
        state = auto.http.get("/deployment/state").json()
        math = next(module for module in state["modules"] if module["name"] == "math")
        base = next(module for module in state["modules"] if module["is_prefill_module"])
        items = state.get("choices", {"items": []})["items"]
        counted = sum(item["calls"] for item in items if (item["alias"], item["module"]) == ("auto", "math"))
        return math["requests"], base["requests"], counted

    before = numbers()
    auto.chat("auto", MESSAGES[0]["content"], max_tokens=2)
    assert [after - earlier for after, earlier in zip(numbers(), before, strict=True)] == [1, 0, 1]
    metrics = auto.http.get("/metrics").text
    assert 'prefillshare_choices_total{alias="auto",module="math"}' in metrics
    assert "prefillshare_choice_seconds_count" in metrics


def test_a_conversation_goes_from_module_to_module_over_one_cache(auto: Endpoint, prompts: list[Prompt]) -> None:
    long = max(prompts, key=len)
    auto.flush()
    cached = []
    for end in (len(long) // 2, len(long) - 30, len(long)):
        reply, _ = ask(auto, long[:end], sampling_params={"temperature": 0, "max_new_tokens": 1})
        cached.append(reply.json()["meta_info"]["cached_tokens"])
        assert_is_the_choice(reply.headers[HEADER], long[:end])
    assert cached[0] == 0
    assert all(earlier < later for earlier, later in pairwise(cached))


def test_a_classifier_that_does_not_belong_here_is_refused(auto: Endpoint, tmp_path: Path) -> None:
    def reason(**changes: Any) -> str:
        reply = auto.http.put("/aliases/other", json={**AUTO, **changes})
        assert reply.status_code == 400, reply.text
        return reply.json()["error"]["message"]

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    manifest = json.loads((TINY_ROUTER / "router.json").read_text())
    (foreign / "router.json").write_text(json.dumps({**manifest, "prefill_fingerprint": "sha256:" + "0" * 64}))
    (foreign / "router.safetensors").write_bytes((TINY_ROUTER / "router.safetensors").read_bytes())
    assert "has learned the hidden states of the prefill module 000000000000" in reason(classifier=str(foreign))
    assert "holds no classifier" in reason(classifier=str(MODELS_DIR / "tiny" / "math"))
    assert "give the whole path" in reason(classifier="tiny-router")
    (foreign / "router.json").write_text(json.dumps({**manifest, "labels": ["math", "tool", "law"]}))
    assert "has the label 'law', which is no decode module" in reason(classifier=str(foreign))
    assert "other" not in auto.http.get("/aliases").json()["aliases"]


def test_a_classifier_stays_as_it_was_read(auto: Endpoint, tmp_path: Path) -> None:
    chat = {"model": "auto", "messages": MESSAGES, "max_tokens": 1, "temperature": 0}
    try:
        assert_stays(
            tmp_path / "classifier",
            lambda name, meaning: auto.http.put(f"/aliases/{name}", json=meaning),
            lambda: auto.http.post("/v1/chat/completions", json=chat).headers[HEADER],
        )
    finally:
        auto.http.delete("/aliases/other")


def test_a_module_that_a_classifier_chooses_is_not_removed(auto: Endpoint) -> None:
    reply = auto.http.delete("/modules/code")
    assert reply.status_code == 409
    assert "alias 'auto' means module 'code'" in reply.json()["error"]["message"]
    assert auto.http.get("/v1/models/auto").json()["alias_of"] == list(MODULES)
