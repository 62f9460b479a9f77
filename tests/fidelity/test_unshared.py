"""Adapters that were trained the ordinary way beside shared modules (`share = false`): each answers by its own rule.

The reference of such a module is transformers + peft with the adapter on at every position of prompt and answer, which
is the sharing ratio 0 of `training.reference.decode`. Its KV never meets the shared one's, neither in the cache nor in
the store, and a prompt of it is found again by itself alone.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from prefillshare.modules.unshared import adapter_kv_sha256
from tests.fidelity.conftest import Expected, Prompt
from tests.support.engines import MODELS_DIR, Answer, Endpoint, engine_state, shared_engine
from tests.support.marks import starts_engine
from tests.support.ordinary import ORDINARY, Alone
from tests.support.scores import Score
from tests.support.stores import num_stored_pages, whole_pages

NUM_TOKENS = 18
SHARED = ("math", "tool", None)
FILE = """
name = "mixed"
topology = "colocated"

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

[[decode]]
name = "tool"
kind = "lora"
path = "{models}/tiny/tool"

[[decode]]
name = "own-code"
kind = "lora"
path = "{models}/tiny/naive/code"
share = false

[engine]
max_total_tokens = 8192

[store]
memory = "128 MiB"
host_ratio = 1.0
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("unshared") / "mixed.toml"
    file.write_text(FILE.format(models=MODELS_DIR))
    return file


@pytest.fixture(scope="module")
@starts_engine
def engine(file: Path) -> Iterator[Endpoint]:
    with shared_engine(file, "--chunked-prefill-size", "64", "--enable-mixed-chunk") as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


def check(
    asked: Sequence[tuple[Prompt, str | None]],
    answers: Sequence[Answer],
    alone: Alone,
    expected: Expected,
    score: Score,
) -> None:
    """Every answer is that of its module's own rule."""
    for (prompt, module), answer in zip(asked, answers, strict=True):
        if module in ORDINARY:
            is_exact = alone.is_greedy(module, prompt, answer.tokens)
        else:
            is_exact = answer.tokens == expected.given((prompt, module), answer.tokens).tokens
        score.total += 1
        score.exact += is_exact
        assert is_exact, module


def counters(engine: Endpoint, name: str) -> dict[str, Any]:
    """What the engine has counted of a module."""
    (module,) = (m for m in engine_state(engine.http)["modules"] if m["name"] == name)
    return dict(module)


def test_each_is_answered_by_its_own_rule_and_finds_its_own_kv_alone(engine, prompts, alone, expected, score):
    prompt = max(prompts[:12], key=len)
    asked = [(prompt, module) for module in ("math", "own-math", "own-code", "tool", "own-math", "math")]
    answers = [engine.generate(prompt, module, NUM_TOKENS) for _, module in asked]
    check(asked, answers, alone, expected, score)
    cached = [answer.cached_tokens for answer in answers]
    assert cached[0] == cached[1] == cached[2] == 0
    assert all(num >= whole_pages(len(prompt)) for num in cached[3:])
    # What the prefill module had made of the prompt, such a module has to make again: that is what sharing would save.
    assert [answer.report.get("avoidable_tokens") for answer in answers] == [
        None,
        whole_pages(len(prompt)),
        whole_pages(len(prompt)),
        None,
        0,
        None,
    ]
    assert counters(engine, "own-math")["avoidable_tokens"] == whole_pages(len(prompt))
    assert counters(engine, "own-math")["cross_hit_tokens"] == 0
    assert counters(engine, "math")["avoidable_tokens"] == 0


def test_mixed_batches(engine, prompts, alone, expected, score):
    engine.flush()
    few = prompts[:8]
    asked = [(prompt, module) for prompt in few for module in (*ORDINARY, *SHARED)]
    check(asked, engine.generate_all(asked, NUM_TOKENS, 8), alone, expected, score)
    check(asked[:10], engine.generate_batch(asked[:10], NUM_TOKENS), alone, expected, score)


def test_its_answers_stay_in_the_cache_and_are_not_computed_ahead(engine, prompts, alone, expected, score):
    engine.flush()
    before = engine_state(engine.http)["workers"][0]["eager"]
    prompt = prompts[1]
    first = engine.generate(prompt, "own-code", NUM_TOKENS)
    longer = (*prompt, *first.tokens, *prompts[2][:5])
    answers = [engine.generate(longer, module, NUM_TOKENS) for module in ("own-code", "own-math")]
    check([(longer, "own-code"), (longer, "own-math")], answers, alone, expected, score)
    assert answers[0].cached_tokens >= whole_pages(len(prompt) + NUM_TOKENS - 1)
    assert answers[1].cached_tokens == 0
    after = engine_state(engine.http)["workers"][0]["eager"]
    assert (after["tokens"], after["waiting"]) == (before["tokens"], 0)


def test_several_samples_and_tenants(engine, prompts, alone, expected, score):
    engine.flush()
    prompt = prompts[3]
    for tenant in (None, "a", "b"):
        answer = engine.generate(prompt, "own-math", NUM_TOKENS, extra_key=tenant)
        assert answer.cached_tokens == 0
        check([(prompt, "own-math")], [answer], alone, expected, score)
    body = {
        "input_ids": list(prompt),
        "lora_path": "own-math",
        "extra_key": "a",
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "n": 2},
    }
    reply = engine.http.post("/generate", json=body).json()
    assert all(alone.is_greedy("own-math", prompt, sample["output_ids"]) for sample in reply)
    assert all(sample["meta_info"]["cached_tokens"] >= whole_pages(len(prompt)) for sample in reply)


def test_a_callers_key_cannot_reach_into_its_namespace(engine, prompts):
    sha256 = adapter_kv_sha256(MODELS_DIR / "tiny" / "naive" / "math")
    body = {"input_ids": list(prompts[3]), "extra_key": f"unshared:{sha256}:", "sampling_params": {"max_new_tokens": 1}}
    reply = engine.http.post("/generate", json=body)
    assert reply.status_code == 400
    assert "extra_key begins with 'unshared:'" in reply.text


def test_its_name_takes_no_other_adapter(engine):
    assert engine.http.post("/unload_lora_adapter", json={"lora_name": "own-code"}).status_code == 200
    body = {"lora_name": "own-code", "lora_path": str(MODELS_DIR / "tiny" / "code")}
    reply = engine.http.post("/load_lora_adapter", json=body)
    assert reply.status_code == 400
    assert "module 'own-code' has share = false in the deployment file" in reply.text


def test_lists_say_that_it_shares_nothing(engine):
    cards = {card["id"]: card["warning"] for card in engine.http.get("/v1/models").json()["data"]}
    assert cards["own-math"] == "its prompts are not shared (share = false)"
    assert cards["math"] is None


@pytest.mark.engine
def test_a_store_keeps_its_kv_for_itself_over_a_restart(file, prompts, alone, expected, score):
    """The last test: it starts the engine anew, over what the first one has stored."""
    prompt = prompts[3]
    assert num_stored_pages(file) > 0
    with shared_engine(file) as engine:
        asked = [(prompt, "own-math"), (prompt, "math"), (prompt, None)]
        answers = [engine.generate(prompt, module, NUM_TOKENS) for _, module in asked]
    check(asked, answers, alone, expected, score)
    assert answers[0].report["store_hit_tokens"] >= whole_pages(len(prompt))
    # No shared module had asked for that prompt since the store was emptied, and the other's KV is not for it.
    assert answers[1].cached_tokens == 0
