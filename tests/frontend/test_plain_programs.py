"""SGLang's programs, unchanged, with SGLang's own backend at the address of a module."""

import json

import pytest
import sglang as sgl
from transformers import AutoTokenizer

from tests.frontend.conftest import Deployment
from tests.support.engines import MODELS_DIR
from tests.support.reference import Reference

SUM = "Omar 3 boxes, beads 7 per box\nOmar's shelf grows by 3 boxes. What stands on it?"
GREEDY = {"temperature": 0, "max_tokens": 48}
TINY = MODELS_DIR / "tiny"
CHOICES = [" boxes", " plates", " books of stamps"]
LOGPROB_TOLERANCE = 1e-3


@sgl.function
def asked(s, question):
    s += sgl.user(question)
    s += sgl.assistant(sgl.gen("answer", **GREEDY))


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY / "base")


def test_the_address_says_which_module_answers(deployment: Deployment) -> None:
    messages = [{"role": "user", "content": SUM}]
    answers = {}
    for module in ("math", "tool", "code"):
        answers[module] = asked.run(SUM, backend=deployment.plain(module, chat_template_name="chatml"))["answer"]
        reply = deployment.chat(module, messages, GREEDY["max_tokens"])
        assert answers[module] == reply["choices"][0]["message"]["content"]
    assert len(set(answers.values())) == 3


@pytest.mark.usefixtures("left_open")
def test_an_address_of_no_module_is_refused_with_the_list(deployment: Deployment) -> None:
    with pytest.raises(RuntimeError, match=r"model 'maths' does not exist; this (server|deployment) has: .*math"):
        deployment.plain("maths")
    reply = deployment.http.post("/modules/maths/generate", json={"text": "x"})
    assert (reply.status_code, "math" in reply.text) == (404, True)


def test_a_body_that_names_a_module_is_stronger_than_the_address(deployment: Deployment) -> None:
    body = {"text": SUM, "sampling_params": {"temperature": 0, "max_new_tokens": 16}}
    own = deployment.http.post("/modules/code/generate", json=body).json()["text"]
    named = deployment.http.post("/modules/math/generate", json={**body, "lora_path": "code"}).json()["text"]
    other = deployment.http.post("/modules/math/generate", json=body).json()["text"]
    assert own == named != other


def test_what_else_an_endpoint_is_asked(deployment: Deployment) -> None:
    for backend in (deployment.plain("math"), deployment.endpoint("math")):
        assert backend.get_model_name().endswith("tiny/base")
        assert sgl.get_server_info(backend)["served_model_name"] == "tiny-base"
        deployment.flush()
        sgl.flush_cache(backend)
    assert "open-sesame" not in json.dumps(sgl.get_server_info(deployment.plain("math")))


def test_bind_trace_and_cache(deployment: Deployment) -> None:
    @sgl.function
    def program(s, opening, question):
        s += opening
        s += "Boxes of beads stand in a row. " * 3
        s += question + sgl.gen("answer", **GREEDY)

    backend = deployment.plain("math")
    deployment.flush()
    bound = program.bind(opening="Omar counts. ")
    assert "answer" in bound.trace(backend=backend).last_node.print_graph_dfs()
    bound.cache(backend)
    state = bound.run(question="How many?", backend=backend)
    meta = state.get_meta_info("answer")
    assert meta["cached_tokens"] > 0.6 * meta["prompt_tokens"]


def test_log_probabilities_of_the_answer(deployment: Deployment) -> None:
    @sgl.function
    def program(s):
        s += SUM + sgl.gen("answer", return_logprob=True, top_logprobs_num=2, return_text_in_logprobs=True, **GREEDY)

    meta = program.run(backend=deployment.plain("math")).get_meta_info("answer")
    assert len(meta["output_token_logprobs"]) == len(meta["output_top_logprobs"]) == meta["completion_tokens"]
    for (logprob, token, _), top in zip(meta["output_token_logprobs"], meta["output_top_logprobs"], strict=True):
        assert top[0][:2] == [logprob, token]


def test_select_compares_the_prefill_modules_log_probabilities(deployment: Deployment, tokenizer) -> None:
    """Positions before the boundary are the prefill module's, in both topologies and whoever's address it is."""

    @sgl.function
    def program(s):
        s += "Omar counts 3" + sgl.select("choice", CHOICES)

    reference = Reference(TINY / "base", {"math": TINY / "math"})
    ids = [tokenizer.encode("Omar counts 3" + choice) for choice in CHOICES]
    expected = [reference.prompt_logprobs(prompt) for prompt in ids]
    largest = 0.0
    for backend in (deployment.plain("math"), deployment.plain("code"), deployment.endpoint()):
        state = program.run(backend=backend)
        meta = state.get_meta_info("choice")
        for served, wanted in zip(meta["input_token_logprobs"], expected, strict=True):
            # The frontend asks for the last tokens only, and may leave out the first of those.
            known = [token[0] for token in served if token[0] is not None]
            largest = max(largest, *(abs(a - b) for a, b in zip(known, wanted[-len(known) :], strict=True)))
        scores = meta["normalized_prompt_logprobs"]
        assert state["choice"] == CHOICES[scores.index(max(scores))]
    assert meta["scored_by"] == "tiny-base"
    print(f"log-probabilities differ by at most {largest:.1e}")
    assert largest <= LOGPROB_TOLERANCE


def test_a_call_for_no_token_names_no_module(deployment: Deployment) -> None:
    """The prefill module answers it; across workers no decode worker hears of it."""
    deployment.flush()
    params = {"max_new_tokens": 0}
    first = deployment.generate(text=[SUM, SUM + "!"], sampling_params=params).json()
    assert [(answer["text"], answer["output_ids"], answer["meta_info"]["completion_tokens"]) for answer in first] == [
        ("", [], 0)
    ] * 2
    length = first[0]["meta_info"]["prompt_tokens"]
    again = deployment.generate(text=SUM, sampling_params={"max_new_tokens": 2}, lora_path="math").json()["meta_info"]
    assert again["cached_tokens"] == length - 1
    if deployment.topology == "disaggregated":
        assert again["prefillshare"] == [{"handoff_tokens": length, "handoff_bytes": length * 5120}]
    wrong = deployment.generate(text=SUM, sampling_params=params, lora_path="maths")
    assert wrong.status_code in (400, 404)


def test_prompt_log_probabilities_with_an_answer(deployment: Deployment) -> None:
    body = {"text": SUM, "return_logprob": True, "logprob_start_len": 0, "lora_path": "math"}
    reply = deployment.generate(**body, sampling_params={"max_new_tokens": 2})
    told = reply.json()["meta_info"]
    assert len(told["input_token_logprobs"]) == told["prompt_tokens"]
    assert told["completion_tokens"] == 2
