"""What callers rely on is the decode worker's business alone, from y_1 on."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fidelity_pd.conftest import MODULES, NUM_TOKENS
from tests.support.engines import engine_state
from tests.support.pd import TINY, as_answer
from tests.support.penalties import PENALTIES, PenalizedReference

CONTEXT = "Mia has 3 boxes with 8 pens in each box. " * 6

SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "unit": {"enum": ["box", "pen"]}},
    "required": ["count", "unit"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def penalized_reference() -> PenalizedReference:
    return PenalizedReference(TINY / "base", {name: TINY / name for name in MODULES})


@pytest.mark.parametrize(
    "penalty",
    [*({name: value} for name, value in PENALTIES), dict(PENALTIES)],
    ids=[*(name for name, _ in PENALTIES), "together"],
)
def test_penalties_count_generated_tokens_only(pair, prompts, penalized_reference, penalty):
    """Each prompt ends in a token that is also likely next, so counting x_n would show."""
    asked = [(*prompt, prompt[-2], prompt[-1]) for prompt in prompts[:6]]

    def answer(prompt):
        return pair.generate(prompt, NUM_TOKENS, sampling_params=penalty).tokens

    with ThreadPoolExecutor(6) as pool:  # requests at their first step share batches with others
        answers = list(pool.map(answer, asked))
    assert answers == [penalized_reference.penalized(pair.module, p, NUM_TOKENS, **penalty).tokens for p in asked]


@pytest.mark.parametrize("length", [1, 2, 3])
def test_short_prompts(pair, prompts, reference, length):
    prompt = prompts[0][:length]
    assert pair.generate(prompt, NUM_TOKENS).tokens == reference.ask(pair.module, prompt, NUM_TOKENS).tokens


def test_one_token_is_the_modules_own(pair, prompts, expected):
    for prompt in prompts[:6]:
        answer = pair.generate(prompt, 1)
        assert answer.tokens == expected.tokens(prompt, pair.module)[:1]
        assert answer.meta["finish_reason"] == {"type": "length", "length": 1}
        assert len(answer.meta["output_token_logprobs"]) == answer.meta["completion_tokens"] == 1


def test_no_token_at_all(pair, prompts):
    body = {"input_ids": list(prompts[0]), "sampling_params": {"temperature": 0, "max_new_tokens": 0}}
    reply, _ = pair.post("/generate", body)
    assert reply.status_code == 200
    assert reply.json()["meta_info"]["completion_tokens"] == 0


def test_what_the_prefill_module_would_say_ends_nothing(pair, prompts, expected):
    """The base's own first token as a stop token: only the module's tokens are looked at."""
    num_asked = 0
    for prompt in prompts:
        base_says, want = expected.tokens(prompt, None)[0], expected.tokens(prompt, pair.module)
        if base_says == want[0]:
            continue
        num_asked += 1
        answer = pair.generate(prompt, NUM_TOKENS, sampling_params={"stop_token_ids": [base_says], "ignore_eos": False})
        end = want.index(base_says) + 1 if base_says in want else answer.meta["completion_tokens"]
        assert answer.tokens[:end] == want[:end]
        assert answer.meta["completion_tokens"] >= 1
    assert num_asked > 0


def test_stopping_at_the_first_token(pair, prompts, expected):
    prompt = prompts[1]
    first = expected.tokens(prompt, pair.module)[0]
    params = {"stop_token_ids": [first], "ignore_eos": False}
    answer = pair.generate(prompt, NUM_TOKENS, sampling_params=params)
    assert answer.meta["completion_tokens"] == 1
    assert answer.meta["finish_reason"] == {"type": "stop", "matched": first}
    assert answer.meta["output_token_logprobs"][0][1] == first


def test_a_stop_string_ends_the_answer(pair, prompts):
    body = {
        "input_ids": list(prompts[2]),
        "sampling_params": {"temperature": 0, "max_new_tokens": 40, "ignore_eos": True},
    }
    text = pair.post("/generate", body)[0].json()["text"]
    stop = text[3:6]
    body["sampling_params"]["stop"] = [stop]
    reply = pair.post("/generate", body)[0].json()
    assert reply["text"] == text[: text.index(stop)]
    assert reply["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}


def test_fewest_tokens_are_counted_from_y_1(pair, prompts, expected):
    """``min_new_tokens`` holds a stop token back exactly that long."""
    prompt = prompts[1]
    first = expected.tokens(prompt, pair.module)[0]
    for fewest in (1, 3):
        params = {"stop_token_ids": [first], "ignore_eos": False, "min_new_tokens": fewest}
        tokens = pair.generate(prompt, NUM_TOKENS, sampling_params=params).tokens
        assert first not in tokens[:fewest]


@pytest.mark.parametrize("kind", ["json_schema", "regex"])
def test_a_grammar_binds_the_first_token(pair, kind):
    grammar = {"json_schema": json.dumps(SCHEMA), "regex": "(box|pen) [0-9]{3}"}[kind]
    params = {"temperature": 0, "max_new_tokens": 60, "repetition_penalty": 1.1, kind: grammar}
    reply = pair.post("/generate", {"text": CONTEXT, "sampling_params": params})[0].json()
    if kind == "regex":
        unit, number = reply["text"].split(" ")
        assert unit in ("box", "pen")
        assert number.isdigit()
    elif reply["meta_info"]["finish_reason"]["type"] == "stop":
        assert set(json.loads(reply["text"])) == {"count", "unit"}
    else:
        assert reply["text"].lstrip().startswith("{")


def test_a_stream_says_what_a_whole_answer_says(pair, prompts, expected):
    # So many tokens that a reader that is held up does not get all of them in one piece.
    prompt, num_tokens = prompts[2], 100
    params = {"temperature": 0, "max_new_tokens": num_tokens, "ignore_eos": True}
    pieces = list(
        pair.stream("/generate", {"input_ids": list(prompt), "sampling_params": params, "return_logprob": True})
    )
    # A piece has what was said since the one before; where the reader or the machine is slow, that is several tokens.
    counts = [piece["meta_info"]["completion_tokens"] for piece in pieces]
    assert len(counts) > 1
    assert counts == sorted(set(counts))
    assert counts[-1] == num_tokens
    last = as_answer(pieces[-1])
    assert all(last.tokens[:count] == as_answer(piece).tokens for count, piece in zip(counts, pieces, strict=True))
    assert last.tokens[:NUM_TOKENS] == expected.tokens(prompt, pair.module)
    assert len(last.meta["output_token_logprobs"]) == num_tokens


def test_chat_streams_and_counts(pair):
    body = {"messages": [{"role": "user", "content": CONTEXT}], "temperature": 0, "max_tokens": 20}
    decoded, prefilled = pair.post("/v1/chat/completions", body)
    whole = decoded.json()
    assert whole["model"] == pair.module
    moved = prefilled.json()["metadata"]["prefillshare"]
    assert moved["handoff_tokens"] == whole["usage"]["prompt_tokens"]
    assert 0 < moved["prefill_seconds"] < 600, "of one clock"
    assert 0 < moved["handoff_seconds"] < 600

    chunks = list(pair.stream("/v1/chat/completions", {**body, "stream_options": {"include_usage": True}}))
    text = "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"])
    assert text == whole["choices"][0]["message"]["content"]
    usage = chunks[-1]["usage"]
    assert usage["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1


def test_logprobs_of_a_chat_begin_with_the_modules_first_token(pair):
    reply, _ = pair.chat(CONTEXT, max_tokens=6, logprobs=True, top_logprobs=2)
    content = reply.json()["choices"][0]["logprobs"]["content"]
    assert len(content) == reply.json()["usage"]["completion_tokens"]
    assert all(token["top_logprobs"][0]["logprob"] == token["logprob"] for token in content)


def test_a_batch_is_answered_in_its_order(pair, prompts, expected):
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True}
    asked = [list(prompt) for prompt in prompts[:4]]
    reply, _ = pair.post("/generate", {"input_ids": asked, "sampling_params": params})
    assert [answer["output_ids"] for answer in reply.json()] == [expected.tokens(p, pair.module) for p in asked]


def test_an_abandoned_stream_leaves_nothing_wrong_behind(pair, prompts, expected):
    """Clients hang up in the middle; afterwards every slot is accounted for and the answers are right."""

    def hang_up(prompt) -> None:
        params = {"max_new_tokens": 2000, "ignore_eos": True}
        pieces = pair.stream("/generate", {"input_ids": list(prompt), "sampling_params": params})
        for _ in range(5):
            next(pieces)
        pieces.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, prompts[8:16]))
    answers = pair.generate_all(prompts[8:16], NUM_TOKENS, 8)
    assert [answer.tokens for answer in answers] == [expected.tokens(p, pair.module) for p in prompts[8:16]]
    # Flushing needs idle workers, and an idle worker checks that no slot of its pool is lost.
    pair.flush()


def test_a_worker_says_that_it_generates_without_a_partner(pair):
    both = (pair.prefill, pair.decode)
    for worker in both:
        for _ in range(2):
            assert worker.get("/health_generate").status_code == 200
    # Those calls brought no KV with them, and left none behind.
    assert [engine_state(worker)["workers"][0]["kv"]["shared_tokens"] for worker in both] == [0, 0]
    pair.flush()


def test_a_seed_decides_cold_and_warm_alone_and_beside_others(pair, prompts):
    params = {"temperature": 4.0, "sampling_seed": 5}
    first = pair.generate(prompts[0], 12, sampling_params=params).tokens
    assert pair.generate(prompts[0], 12, sampling_params=params).tokens == first
    assert pair.generate(prompts[0], 12, sampling_params={**params, "sampling_seed": 6}).tokens != first
    pair.flush()
    with ThreadPoolExecutor(6) as pool:
        others = [
            pool.submit(pair.generate, prompt, 12, sampling_params={"temperature": 1.5}) for prompt in prompts[:4]
        ]
        again = pool.submit(pair.generate, prompts[0], 12, sampling_params=params)
        assert again.result().tokens == first
        assert all(len(other.result().tokens) == 12 for other in others)


def test_what_tells_of_thinking_ends_no_prefill_worker(pair, prompts):
    params = {"temperature": 0, "max_new_tokens": 4, "ignore_eos": True}
    body = {"input_ids": list(prompts[0]), "require_reasoning": True, "sampling_params": params}
    decoded, prefilled = pair.post("/generate", body)
    assert [decoded.status_code, prefilled.status_code] == [200, 200]
    assert decoded.json()["output_ids"] == pair.generate(prompts[0], 4).tokens
