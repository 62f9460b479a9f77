"""Ordinary adapters in a disaggregated deployment (`share = false`): each is served by an engine of its own.

Asked through the router, as clients ask. The reference is transformers + peft with the adapter on at every position;
a shared module beside it keeps its own. Greedy tokens must be identical, log-probabilities agree within 1e-4.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.fidelity_pd.conftest import NUM_TOKENS, Expected, Prompt
from tests.support.engines import MODELS_DIR, Answer, Endpoint, call_and_leave, shared_engine
from tests.support.marks import starts_engine
from tests.support.monitoring import read_state
from tests.support.ordinary import ORDINARY, TINY, Alone
from tests.support.scores import Score
from tests.support.waiting import wait_until

LOGPROB_TOLERANCE = 1e-4
OWN, SHARED = "own-math", "math"
SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "unit": {"enum": ["box", "pen"]}},
    "required": ["count", "unit"],
    "additionalProperties": False,
}
FILE = """
name = "mixed-pd"
topology = "disaggregated"

[prefill]
name = "tiny-base"
path = "{models}/tiny/base"
eager_min_tokens = 1

[[decode]]
name = "math"
kind = "lora"
path = "{models}/tiny/math"

[[decode]]
name = "own-math"
kind = "lora"
path = "{models}/tiny/naive/math"
share = false

[aliases]
latest = "own-math"

[aliases.auto]
default = "math"
rules = [{{ module = "own-math", text = "boxes" }}]

[engine]
max_total_tokens = 8192
page_size = {page_size}
{more}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How the workers are started."""

    page_size: int
    more: str = ""
    """What follows [engine] in the file."""
    args: tuple[str, ...] = ()


CONFIGURATIONS = {
    "page 1": Configuration(page_size=1),
    "page 16, chunk 64, store": Configuration(
        page_size=16, more='\n[store]\nmemory = "128 MiB"\nhost_ratio = 1.0\n', args=("--chunked-prefill-size", "64")
    ),
}


@pytest.fixture(scope="module", params=CONFIGURATIONS)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


@pytest.fixture(scope="module")
def file(configuration: Configuration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("unshared") / "mixed-pd.toml"
    text = FILE.format(models=MODELS_DIR, page_size=configuration.page_size, more=configuration.more)
    file.write_text(text)
    return file


@pytest.fixture(scope="module")
@starts_engine
def router(configuration: Configuration, file: Path) -> Iterator[Endpoint]:
    with shared_engine(file, *configuration.args) as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone({OWN: ORDINARY[OWN]})


def pages(configuration: Configuration, num_tokens: int) -> int:
    """Of so many prompt tokens, those in whole pages that are found when all before the last one is known."""
    return (num_tokens - 1) // configuration.page_size * configuration.page_size


def check(
    asked: Sequence[tuple[Prompt, str]], answers: Sequence[Answer], alone: Alone, expected: Expected, score: Score
) -> None:
    """Every answer is that of its module's own rule."""
    for (prompt, module), answer in zip(asked, answers, strict=True):
        if module == OWN:
            is_exact = alone.is_greedy(module, prompt, answer.tokens)
            first = float(alone.scores(module, prompt)[-1].max())
        else:
            want = expected.given((prompt, module), answer.tokens)
            is_exact, first = answer.tokens == want.tokens, want.logprobs[0]
        score.total += 1
        score.exact += is_exact
        assert is_exact, (module, len(prompt), answer.cached_tokens)
        assert len(answer.tokens) == NUM_TOKENS
        assert answer.first_logprob is not None
        score.largest_logprob_difference = max(score.largest_logprob_difference, abs(answer.first_logprob - first))
    assert score.largest_logprob_difference <= LOGPROB_TOLERANCE


def state(router: Endpoint) -> dict[str, Any]:
    return read_state(router.http)


def num_running(router: Endpoint) -> int:
    """Calls that the worker of the module has, and the router has not seen the end of."""
    told = router.http.get("/router/state").json()["workers"]
    return sum(each["running"] for each in told if each["id"] == "decode-own-math-0")


def counters(router: Endpoint, module: str) -> dict[str, Any]:
    return next(each for each in state(router)["modules"] if each["name"] == module)


def worker(router: Endpoint, name: str) -> dict[str, Any]:
    return next(each for each in state(router)["workers"] if each["id"] == name)


def is_idle(router: Endpoint) -> bool:
    """Whether no worker has a call, nor KV of one."""
    workers = [each for each in state(router)["workers"] if each["role"] != "router"]
    return all(each["running"] == 0 and each["queued"] == 0 and each["kv"]["private_tokens"] == 0 for each in workers)


def test_cold_warm_and_beside_a_shared_module(configuration, router, prompts, alone, expected, score):
    before = counters(router, OWN)
    for prompt in prompts[:12]:
        asked = [(prompt, module) for module in (OWN, SHARED, OWN)]
        answers = [router.generate(prompt, module, NUM_TOKENS) for _, module in asked]
        check(asked, answers, alone, expected, score)
        # The one's KV is not the other's, whoever comes first.
        assert answers[2].cached_tokens >= pages(configuration, len(prompt)) > answers[0].cached_tokens
    after = counters(router, OWN)
    assert after["requests"] - before["requests"] == 24
    assert after["prompt_tokens"] - before["prompt_tokens"] == 2 * sum(map(len, prompts[:12]))
    assert after["own_hit_tokens"] > before["own_hit_tokens"]
    assert after["cross_hit_tokens"] == 0
    assert worker(router, "decode-own-math-0")["handoff"] is None


def test_what_sharing_would_save_is_counted(configuration, router, prompts):
    router.flush()
    prompt = max(prompts, key=len)
    before = counters(router, OWN)["avoidable_tokens"]
    router.generate(prompt, SHARED, 1)
    wait_until(lambda: counters(router, SHARED)["running"] == 0, "the prefill leg ends")
    router.generate(prompt, OWN, 1)
    found = counters(router, OWN)["avoidable_tokens"] - before
    # The router's index counts bytes in blocks of 64, a token id being 4 of them.
    assert len(prompt) - 16 <= found <= len(prompt)
    router.generate(prompt, OWN, 1)
    assert counters(router, OWN)["avoidable_tokens"] - before - found <= configuration.page_size
    assert counters(router, SHARED)["avoidable_tokens"] == 0


def test_many_at_a_time_and_in_one_call(router, prompts, alone, expected, score):
    router.flush()
    asked = [(prompt, module) for prompt in prompts for module in (OWN, SHARED)]
    check(asked, router.generate_all(asked, NUM_TOKENS, 12), alone, expected, score)
    own = [(prompt, OWN) for prompt in prompts[:8]]
    check(own, router.generate_batch(own, NUM_TOKENS), alone, expected, score)


def test_a_conversation_finds_its_own_answers_and_nothing_is_computed_ahead(
    configuration, router, prompts, alone, expected, score
):
    # What the router has still to send of others' answers is not emptied.
    wait_until(lambda: state(router)["eager_jobs"]["waiting"] == 0, "jobs of earlier answers are left")
    router.flush()
    eager = worker(router, "prefill-0")["eager"]
    prompt = prompts[1]
    for _ in range(4):
        answer = router.generate(prompt, OWN, NUM_TOKENS)
        check([(prompt, OWN)], [answer], alone, expected, score)
        known, prompt = len(prompt) + NUM_TOKENS - 1, (*prompt, *answer.tokens, *prompts[2][:5])
        again = router.generate(prompt, OWN, NUM_TOKENS)
        check([(prompt, OWN)], [again], alone, expected, score)
        assert again.cached_tokens >= known // configuration.page_size * configuration.page_size
    assert worker(router, "prefill-0")["eager"]["tokens"] == eager["tokens"]
    assert state(router)["eager_jobs"]["waiting"] == 0


def test_samples_seeds_and_tenants(configuration, router, prompts, alone, expected, score):
    router.flush()
    prompt = prompts[3]
    for tenant in (None, "a", "b"):
        answer = router.generate(prompt, OWN, NUM_TOKENS, extra_key=tenant)
        assert answer.cached_tokens == 0
        check([(prompt, OWN)], [answer], alone, expected, score)
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "n": 2}
    body = {"input_ids": list(prompt), "lora_path": OWN, "extra_key": "a", "sampling_params": params}
    reply = router.http.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    assert all(alone.is_greedy(OWN, prompt, sample["output_ids"]) for sample in reply.json())
    assert [sample["meta_info"]["cached_tokens"] >= pages(configuration, len(prompt)) for sample in reply.json()] == [
        True,
        True,
    ]
    key = {**body, "extra_key": "unshared:x:", "sampling_params": {"max_new_tokens": 1}}
    assert "extra_key begins with 'unshared:'" in router.http.post("/generate", json=key).text


def test_log_probabilities_of_the_prompt_are_its_own(router, prompts, alone):
    prompt = prompts[4]
    body = {
        "input_ids": list(prompt),
        "lora_path": OWN,
        "return_logprob": True,
        "logprob_start_len": 0,
        "sampling_params": {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True},
    }
    want = alone.logprobs(OWN, prompt)
    for num_tokens in (4, 0):
        body["sampling_params"] = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
        reply = router.http.post("/generate", json=body)
        assert reply.status_code == 200, reply.text
        told = [logprob for logprob, *_ in reply.json()["meta_info"]["input_token_logprobs"]][1:]
        assert max(abs(a - b) for a, b in zip(told, want, strict=True)) <= LOGPROB_TOLERANCE
    echo = {"model": OWN, "prompt": list(prompt), "max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 1}
    logprobs = router.http.post("/v1/completions", json=echo).json()["choices"][0]["logprobs"]["token_logprobs"]
    assert max(abs(a - b) for a, b in zip(logprobs[1 : len(prompt)], want, strict=True)) <= LOGPROB_TOLERANCE


def test_every_door_says_the_same_as_the_reference(router, alone):
    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    messages = [{"role": "user", "content": "Omar has 3 boxes with 4 pens in each box. How many pens?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    want = tokenizer.decode(alone.answer(OWN, prompt, 48, tokenizer.eos_token_id), skip_special_tokens=True)
    assert want
    chat = {"messages": messages, "temperature": 0, "max_tokens": 48}
    for name in (OWN, "latest", "auto"):
        reply = router.http.post("/v1/chat/completions", json={**chat, "model": name})
        assert reply.json()["choices"][0]["message"]["content"] == want
        assert reply.headers["X-Decode-Worker"] == "decode-own-math-0"
    streamed = router.openai.chat.completions.create(model=OWN, stream=True, **chat)  # type: ignore[call-overload]
    assert "".join(event.choices[0].delta.content or "" for event in streamed if event.choices) == want
    message = router.http.post("/v1/messages", json={**chat, "model": OWN}).json()
    assert message["content"][0]["text"] == want
    response = router.openai.responses.create(model=OWN, input=messages[0]["content"], temperature=0)
    assert response.output_text.strip() == want.strip()
    told = router.openai.responses.create(
        model=OWN, input="And 2 more boxes?", previous_response_id=response.id, temperature=0
    )
    assert told.output_text
    two = router.http.post("/v1/chat/completions", json={**chat, "model": OWN, "n": 2}).json()
    assert [choice["message"]["content"] for choice in two["choices"]] == [want, want]


def test_stops_and_schemas(router, prompts, alone):
    prompt = prompts[5]
    want = alone.answer(OWN, prompt, NUM_TOKENS)
    body = {"input_ids": list(prompt), "lora_path": OWN}
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "stop_token_ids": [want[0]]}
    reply = router.http.post("/generate", json={**body, "sampling_params": params}).json()
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": want[0]}
    params = {"temperature": 0, "max_new_tokens": 120, "json_schema": json.dumps(SCHEMA)}
    reply = router.http.post("/generate", json={**body, "sampling_params": params}).json()
    assert json.loads(reply["text"])["unit"] in ("box", "pen")


def test_a_client_that_leaves_ends_its_call(router, prompts):
    params = {"temperature": 0, "max_new_tokens": 3000, "ignore_eos": True}
    body = {"input_ids": list(prompts[6]), "lora_path": OWN, "sampling_params": params}
    with router.http.stream("POST", "/generate", json={**body, "stream": True}) as reply:
        assert next(reply.iter_lines()).startswith("data: ")
    wait_until(lambda: is_idle(router), "the engine is idle again")
    call_and_leave(router.url, body, lambda: num_running(router) == 1)
    wait_until(lambda: is_idle(router), "the engine is idle again")
    assert counters(router, OWN)["aborted"] == 2


def test_a_slow_call_holds_up_nobody(router, prompts, alone, expected, score):
    """Its client leaves in the end: all of it would take much longer than this test."""
    params = {"temperature": 0, "max_new_tokens": 3000, "ignore_eos": True}
    body = {"input_ids": list(prompts[7]), "lora_path": OWN, "sampling_params": params, "stream": True}
    asked = [(prompts[8], module) for module in (OWN, SHARED)]
    tokens: list[int] = []
    with router.http.stream("POST", "/generate", json=body) as reply:
        pieces = (line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {"))
        next(pieces)
        answers = [router.generate(*pair, NUM_TOKENS) for pair in asked]
        assert num_running(router) == 1
        while len(tokens) < 400:
            tokens = json.loads(next(pieces))["output_ids"]
    check(asked, answers, alone, expected, score)
    assert alone.is_greedy(OWN, prompts[7], tokens)
    wait_until(lambda: is_idle(router), "the engine is idle again")


def test_lists_say_what_it_is(router):
    cards = {card["id"]: card["warning"] for card in router.http.get("/v1/models").json()["data"]}
    assert cards[OWN] == "its prompts are not shared (share = false)"
    assert cards[SHARED] is None
    roles = {each["id"]: each["role"] for each in state(router)["workers"]}
    assert (roles["decode-own-math-0"], roles["decode-math-0"]) == ("engine", "decode")
    assert {each["name"]: each["kind"] for each in state(router)["modules"]} == {OWN: "lora", SHARED: "lora"}


@pytest.mark.engine
@pytest.mark.parametrize("configuration", ["page 16, chunk 64, store"], indirect=True, scope="module")
def test_a_store_keeps_its_kv_for_itself_over_a_restart(file, router, prompts, alone, expected, score):
    """The last test: it starts the deployment anew, over what the first one has stored."""
    prompt = prompts[9]
    router.generate(prompt, OWN, NUM_TOKENS)
    wait_until(lambda: worker(router, "decode-own-math-0")["store"]["written_pages"], "it is written")
    with shared_engine(file) as again:
        asked = [(prompt, module) for module in (OWN, SHARED)]
        answers = [again.generate(*pair, NUM_TOKENS) for pair in asked]
    check(asked, answers, alone, expected, score)
    assert answers[0].report["store_hit_tokens"] >= (len(prompt) - 1) // 16 * 16
