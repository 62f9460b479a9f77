"""What callers rely on holds on the far side of the boundary: streaming, samples, logprobs, aborts, grammars, names."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.fidelity.conftest import MODULES, NUM_TOKENS
from tests.support.engines import Endpoint

CONTEXT = "Mia has 3 boxes with 8 pens in each box. " * 6

SCHEMA = {
    "type": "object",
    "properties": {"count": {"type": "integer"}, "unit": {"enum": ["box", "pen"]}},
    "required": ["count", "unit"],
    "additionalProperties": False,
}


def ask(agents: Endpoint, model: str, **fields):
    messages = [{"role": "user", "content": CONTEXT}]
    return agents.openai.chat.completions.create(model=model, messages=messages, temperature=0, **fields)


@pytest.mark.parametrize("module", MODULES)
def test_streaming_says_what_a_whole_answer_says(agents, module):
    whole = ask(agents, module, max_tokens=40).choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or ""
        for chunk in ask(agents, module, max_tokens=40, stream=True)
        if chunk.choices
    ]
    assert "".join(pieces) == whole


def test_usage_of_a_stream_reports_cached_tokens(agents):
    ask(agents, "math", max_tokens=1)
    chunks = list(ask(agents, "tool", max_tokens=4, stream=True, stream_options={"include_usage": True}))
    usage = chunks[-1].usage
    assert usage.prompt_tokens_details.cached_tokens == usage.prompt_tokens - 1


def test_parallel_samples_share_the_prompt_and_stay_exact(agents, prompts, expected):
    agents.flush()
    prompt = prompts[6]
    body = {
        "input_ids": list(prompt),
        "lora_path": "tool",
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "n": 4},
    }
    samples = agents.http.post("/generate", json=body).json()
    want = expected[prompt, "tool"].tokens
    assert [sample["output_ids"] for sample in samples] == [want] * 4
    assert [sample["meta_info"]["cached_tokens"] for sample in samples] == [len(prompt) - 1] * 4


@pytest.mark.parametrize("start", [0, 30])
def test_prompt_logprobs_are_the_prefill_modules_own(agents, prompts, reference, expected, start):
    """From ``logprob_start_len`` on the prompt is computed again: it must be computed by the same two sides."""
    agents.flush()
    prompt = prompts[7]
    agents.generate(prompt, "math", 1)
    body = {
        "input_ids": list(prompt),
        "lora_path": "code",
        "return_logprob": True,
        "logprob_start_len": start,
        "sampling_params": {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True},
    }
    reply = agents.http.post("/generate", json=body).json()
    assert reply["output_ids"] == expected[prompt, "code"].tokens
    got = [value for value, _, _ in reply["meta_info"]["input_token_logprobs"]][1:]
    want = reference.prompt_logprobs(prompt)[start:]
    assert len(got) == len(want)
    assert max(abs(a - b) for a, b in zip(got, want, strict=True)) <= 1e-4


def test_an_abandoned_stream_leaves_nothing_wrong_behind(agents, prompts, expected):
    """Clients hang up in the middle; afterwards the cache is right and every slot is accounted for."""
    agents.flush()

    def hang_up(pair) -> None:
        prompt, module = pair
        body = {
            "input_ids": list(prompt),
            "lora_path": module,
            "stream": True,
            "sampling_params": {"max_new_tokens": 2000, "ignore_eos": True},
        }
        with httpx.stream("POST", f"{agents.url}/generate", json=body, timeout=300) as reply:
            for number, _ in enumerate(reply.iter_lines()):
                if number > 6:
                    return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(hang_up, [(prompts[i], MODULES[i % 3]) for i in range(8, 16)]))
    asked = [(prompts[i], module) for i in range(8, 16) for module in MODULES]
    answers = agents.generate_all(asked, NUM_TOKENS, 8)
    assert [a.tokens for a in answers] == [expected[pair].tokens for pair in asked]
    # Flushing needs an idle engine, and an idle engine checks that no slot of the pool is lost.
    agents.flush()
    assert agents.generate(prompts[8], "math", 1).cached_tokens == 0


@pytest.mark.parametrize("module", MODULES)
def test_a_json_schema_binds_the_modules_own_first_token(agents, module):
    form = {"type": "json_schema", "json_schema": {"name": "count", "schema": SCHEMA}}
    reply = ask(agents, module, max_tokens=200, response_format=form, extra_body={"repetition_penalty": 1.3})
    if reply.choices[0].finish_reason == "stop":
        assert set(json.loads(reply.choices[0].message.content)) == {"count", "unit"}
    else:
        assert reply.choices[0].message.content.lstrip().startswith("{")


def test_sampling_options_all_reach_the_module(agents):
    reply = ask(
        agents,
        "code",
        max_tokens=12,
        logprobs=True,
        top_logprobs=2,
        frequency_penalty=0.4,
        presence_penalty=0.2,
        stop=["<|never|>"],
        logit_bias={"70": 100},
        extra_body={"min_tokens": 12, "top_k": 5, "min_p": 0.01, "repetition_penalty": 1.05},
    )
    assert reply.usage.completion_tokens == 12
    assert len(reply.choices[0].logprobs.content) == 12


def test_names_select_modules_and_unknown_ones_are_refused_with_the_list(agents):
    api = agents.openai
    assert {card.id for card in api.models.list()} == {"tiny-base", *MODULES}
    assert api.models.retrieve("math").id == "math"
    for call in (
        lambda: api.models.retrieve("maths"),
        lambda: ask(agents, "maths"),
        lambda: api.completions.create(model="maths", prompt="x"),
        lambda: api.responses.create(model="maths", input="x"),
    ):
        with pytest.raises(openai.NotFoundError, match=r"'maths' does not exist; this server has: .*code"):
            call()


def test_every_endpoint_asks_the_named_module(agents):
    text = ask(agents, "tool", max_tokens=20).choices[0].message.content
    assert text != ask(agents, "tiny-base", max_tokens=20).choices[0].message.content
    reply = agents.openai.responses.create(model="tool", input=CONTEXT, max_output_tokens=20, temperature=0)
    assert reply.output_text.startswith(text[:10])
    messages = {"model": "tool", "max_tokens": 20, "temperature": 0, "messages": [{"role": "user", "content": CONTEXT}]}
    assert agents.http.post("/v1/messages", json=messages).json()["content"][0]["text"] == text
    assert agents.http.post("/v1/messages", json={**messages, "model": "maths"}).status_code == 404
    assert agents.http.post("/api/chat", json={**messages, "stream": False}).status_code == 501


def test_megabytes_of_text_are_refused_before_they_are_tokenised(agents):
    """Tokenising them would hold up everybody; each way in says what does not fit."""
    text = "word " * 2_000_000
    chat = [{"role": "user", "content": text}]
    for path, body in (
        ("/v1/chat/completions", {"model": "math", "messages": chat}),
        ("/v1/completions", {"model": "tool", "prompt": text}),
        ("/v1/completions", {"model": "tool", "prompt": ["short", text]}),
        ("/generate", {"text": text}),
    ):
        reply = agents.http.post(path, json=body)
        assert reply.status_code == 400, (path, reply.text[:300])
        assert "characters, which are more than the 4096 tokens" in reply.text, reply.text[:300]
    assert ask(agents, "math").usage.completion_tokens > 0
