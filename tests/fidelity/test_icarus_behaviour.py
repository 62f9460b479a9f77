"""What callers rely on holds where a module reads base-made KV only: each option acts on the module's own row."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fidelity.icarus_expected import LOGPROB_TOLERANCE, Rules, greedy_with_penalty
from tests.fidelity.icarus_family import PAIRED, SCALE, TARGETS, TINY, make_icarus_family
from tests.fidelity.test_eager import counts, wait_for_tokens
from tests.support.engines import Endpoint, shared_engine
from tests.support.marks import starts_engine
from tests.support.random_models import make_adapter

NUM_TOKENS = 12
WRITER = "writer"


@pytest.fixture(scope="module")
def rules(tmp_path_factory: pytest.TempPathFactory) -> Rules:
    return Rules(make_icarus_family(tmp_path_factory.mktemp("icarus")).parent)


@pytest.fixture(scope="module")
@starts_engine
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    with shared_engine(make_icarus_family(tmp_path_factory.mktemp("icarus"))) as endpoint:
        yield endpoint


def generate(engine: Endpoint, prompt: tuple[int, ...], sampling: dict[str, Any], **fields: Any) -> Any:
    options = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, **sampling}
    body = {"input_ids": list(prompt), "lora_path": WRITER, "sampling_params": options, **fields}
    reply = engine.http.post("/generate", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def best(rules: Rules, prompt: tuple[int, ...], tokens: list[int]) -> list[int]:
    return rules.judge((prompt, WRITER), tokens).tokens


def test_a_json_schema_binds_the_modules_own_choice(engine, prompts, rules):
    """Of two answers that a grammar allows, the one that the module prefers, not the base."""
    tokenizer = rules.tokenizer
    letters = {tokenizer.encode(letter, add_special_tokens=False)[0]: letter for letter in "ABCDEFGHIJ"}
    for prompt in prompts[:6]:
        scores = rules.scores(WRITER, prompt, (0,))[0]
        favourite = max(letters, key=lambda token, row=scores: float(row[token]))
        reply = generate(engine, prompt, {"regex": "[A-J]", "max_new_tokens": 1})
        assert reply["output_ids"] == [favourite]
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"enum": ["box", "pen"]}}}
    reply = engine.chat(WRITER, "which one?", max_tokens=20, response_format=form).json()
    assert json.loads(reply["choices"][0]["message"]["content"]) in ("box", "pen")


def test_a_penalty_counts_what_the_module_said(engine, prompts, rules):
    for prompt in prompts[:3]:
        tokens = generate(engine, prompt, {"frequency_penalty": 1.5})["output_ids"]
        scores = rules.scores(WRITER, prompt, tuple(tokens))
        assert tokens == greedy_with_penalty(scores, tokens, 1.5)


def test_samples_of_one_call_are_exact_and_share_the_prompt(engine, prompts, rules):
    engine.flush()
    samples = generate(engine, prompts[3], {"n": 3})
    assert [sample["output_ids"] for sample in samples] == [best(rules, prompts[3], samples[0]["output_ids"])] * 3
    assert [sample["meta_info"]["cached_tokens"] for sample in samples] == [len(prompts[3]) - 1] * 3


@pytest.mark.parametrize("start", [0, 30])
def test_logprobs_of_the_prompt_are_the_bases_and_of_the_answer_the_modules(engine, prompts, rules, start):
    prompt = prompts[4]
    fields = {"return_logprob": True, "logprob_start_len": start, "top_logprobs_num": 3}
    reply = generate(engine, prompt, {}, **fields)
    given = reply["meta_info"]
    got = [value for value, _, _ in given["input_token_logprobs"]][1:]
    want = rules.reference.prompt_logprobs(prompt)[start:]
    assert got == pytest.approx(want, abs=LOGPROB_TOLERANCE)

    tokens = reply["output_ids"]
    scores = rules.scores(WRITER, prompt, tuple(tokens))
    own = scores[range(len(tokens)), tokens].tolist()
    assert [value for value, _, _ in given["output_token_logprobs"]] == pytest.approx(own, abs=LOGPROB_TOLERANCE)
    for row, top in zip(scores, given["output_top_logprobs"], strict=True):
        assert [value for value, _, _ in top] == pytest.approx(row.topk(3).values.tolist(), abs=LOGPROB_TOLERANCE)


def test_a_score_without_an_answer_is_the_modules(engine, prompts, rules):
    wanted = [5, 17, 300]
    fields = {"return_logprob": True, "token_ids_logprob": wanted}
    given = generate(engine, prompts[5], {"max_new_tokens": 0}, **fields)["meta_info"]
    row = rules.scores(WRITER, prompts[5], (0,))[0]
    got = [value for value, _, _ in given["output_token_ids_logprobs"][0]]
    assert got == pytest.approx(row[wanted].tolist(), abs=LOGPROB_TOLERANCE)


def test_a_prompt_alone_is_cached_for_every_module(engine, prompts):
    engine.flush()
    generate(engine, prompts[6], {"max_new_tokens": 0})
    for module in (*PAIRED, "math", None):
        assert engine.generate(prompts[6], module, 1).cached_tokens == len(prompts[6]) - 1


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_prompts_are_exact(engine, prompts, rules, length):
    engine.flush()
    prompt = prompts[7][:length]
    for _ in range(2):
        tokens = generate(engine, prompt, {})["output_ids"]
        assert tokens == best(rules, prompt, tokens)


def test_an_answer_ends_after_one_token_or_where_a_stop_text_says(engine, prompts, rules):
    prompt = prompts[8]
    whole = generate(engine, prompt, {})
    assert generate(engine, prompt, {"max_new_tokens": 1})["output_ids"] == whole["output_ids"][:1]
    text = whole["text"]
    stopped = generate(engine, prompt, {"stop": [text[3:5]]})
    assert stopped["text"] == text[: text.index(text[3:5])]


def test_streaming_says_what_a_whole_answer_says(engine, prompts):
    # So many that the reader does not get all of them at once, though it is held up.
    num_tokens = 100
    whole = generate(engine, prompts[9], {"max_new_tokens": num_tokens})
    body = {
        "input_ids": list(prompts[9]),
        "lora_path": WRITER,
        "stream": True,
        "sampling_params": {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True},
    }
    with engine.http.stream("POST", "/generate", json=body) as reply:
        events = [line.removeprefix("data: ") for line in reply.iter_lines() if line.startswith("data: {")]
    assert json.loads(events[-1])["text"] == whole["text"]
    assert len(events) > 1


def test_abandoned_streams_leave_nothing_wrong_behind(engine, prompts, rules):
    """Clients hang up in the middle; afterwards the cache is right and every slot is accounted for."""
    engine.flush()

    def hang_up(pair: tuple[tuple[int, ...], str]) -> None:
        prompt, module = pair
        sampling = {"max_new_tokens": 2000, "ignore_eos": True}
        body = {"input_ids": list(prompt), "lora_path": module, "stream": True, "sampling_params": sampling}
        with httpx.stream("POST", f"{engine.url}/generate", json=body, timeout=300) as reply:
            for number, _ in enumerate(reply.iter_lines()):
                if number > 6:
                    return

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(hang_up, [(prompts[i], PAIRED[i % 2]) for i in range(10, 16)]))
    for prompt in prompts[10:16]:
        answer = engine.generate(prompt, WRITER, NUM_TOKENS)
        assert answer.tokens == best(rules, prompt, answer.tokens)
    # Flushing needs an idle engine, and an idle engine checks that no slot of the pool is lost.
    engine.flush()
    assert engine.generate(prompts[10], WRITER, 1).cached_tokens == 0


def test_nothing_of_an_answer_is_computed_ahead_since_it_is_cached_already(engine, prompts):
    """The answer of an ordinary module is, so the engine would."""
    engine.flush()
    before = counts(engine)["tokens"]
    for prompt in prompts[16:19]:
        engine.generate(prompt, WRITER, 60)
    engine.generate(prompts[19], "math", 60)
    # From x_n to the last token of the answer, of the ordinary module alone.
    wait_for_tokens(engine, before + 61)
    engine.flush()
    assert counts(engine)["tokens"] == before + 61


def test_an_adapter_that_comes_later_is_served_by_its_rule_or_refused(engine, prompts, rules, tmp_path):
    base = TINY / "base"
    same = make_adapter(tmp_path / "a", base, "a", seed=102, scale=SCALE, objective="icarus", target_modules=TARGETS)
    values = make_adapter(tmp_path / "b", base, "b", seed=1, objective="icarus", target_modules=("q_proj", "v_proj"))

    def load(path: Path) -> httpx.Response:
        return engine.http.post("/load_lora_adapter", json={"lora_name": "late", "lora_path": str(path)})

    refused = load(values)
    assert refused.status_code == 400
    assert "v_proj" in refused.text
    assert load(same).status_code == 200, load(same).text
    try:
        tokens = engine.generate(prompts[0], "late", NUM_TOKENS).tokens
        assert tokens == best(rules, prompts[0], tokens)
    finally:
        assert engine.http.post("/unload_lora_adapter", json={"lora_name": "late"}).status_code == 200


def test_an_engine_without_second_rows_refuses_an_adapter_that_needs_them(agents, tmp_path):
    path = make_adapter(tmp_path / "a", TINY / "base", "a", seed=1, objective="icarus", target_modules=TARGETS)
    reply = agents.http.post("/load_lora_adapter", json={"lora_name": "late", "lora_path": str(path)})
    assert reply.status_code == 400
    assert "this engine was started without such a module" in reply.text
