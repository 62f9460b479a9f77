"""Tokens that came over a hand-off equal the reference computation, however they got there (I3, I4, I5).

24 held-out prompts x a module with full weights and one with an adapter x worker configurations x cold, warm and twelve
at a time, and a conversation; KV goes through shared memory, in one configuration over NIXL. Greedy tokens must be
identical; log-probabilities of y_1 agree within 1e-4.
"""

import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest

from prefillshare.contract import SHARED_MEMORY_VARIABLE
from tests.fidelity_pd.conftest import MODULES, NUM_TOKENS, Expected, Prompt
from tests.support.marks import starts_engine
from tests.support.pd import Answer, Pair, Workers, deployment_file, pd_workers
from tests.support.scores import Score

LOGPROB_TOLERANCE = 1e-4
NUM_TURNS = 4
NEW = (30, 31, 32)
"""What a conversation says between two calls."""
RETRACTION = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "5"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """How workers are started."""

    page_size: int
    args: tuple[str, ...] = ()
    decode_environment: tuple[tuple[str, str], ...] = ()
    has_retractions: bool = False
    """Whether running requests must lose their memory and get it back."""
    is_by_memory: bool = True
    """Whether the prefill worker writes KV right into the decode workers' memory."""
    store: str | None = None
    """Memory of the store; with one, what follows each answer is computed ahead."""

    def environment(self) -> dict[str, str]:
        """Of the decode workers."""
        return {**dict(self.decode_environment), **({} if self.is_by_memory else {SHARED_MEMORY_VARIABLE: "0"})}


CONFIGURATIONS = {
    "page 1": Configuration(page_size=1),
    "page 16, chunk 64": Configuration(page_size=16, args=("--chunked-prefill-size", "64")),
    "page 1, retraction every 5 steps": Configuration(
        page_size=1, decode_environment=tuple(RETRACTION.items()), has_retractions=True
    ),
    "page 16, retraction every 5 steps, over NIXL": Configuration(
        page_size=16, decode_environment=tuple(RETRACTION.items()), has_retractions=True, is_by_memory=False
    ),
    "page 1, pool of 1600 tokens": Configuration(page_size=1, args=("--max-total-tokens", "1600")),
    "page 16, chunk 64, pool of 1600 tokens, answers ahead, store": Configuration(
        page_size=16, args=("--chunked-prefill-size", "64", "--max-total-tokens", "1600"), store="64 MiB"
    ),
}


@pytest.fixture(scope="module", params=CONFIGURATIONS, ids=lambda name: name)
def configuration(request: pytest.FixtureRequest) -> Configuration:
    return CONFIGURATIONS[request.param]


@pytest.fixture(scope="module")
@starts_engine
def configured(
    configuration: Configuration, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Workers]:
    if configuration == Configuration(page_size=1):
        yield request.getfixturevalue("workers")
        return
    file = deployment_file(
        tmp_path_factory.mktemp("pd"), *MODULES, page_size=configuration.page_size, store=configuration.store
    )
    environment = {f"decode-{module}-0": configuration.environment() for module in MODULES}
    with pd_workers(file, *configuration.args, environment=environment) as workers:
        yield workers


def check(prompts: Sequence[Prompt], answers: Sequence[Answer], module: str, expected: Expected, score: Score) -> None:
    """Count exact answers and the largest difference; report the first prompts that differ."""
    wrong = []
    for prompt, answer in zip(prompts, answers, strict=True):
        want = expected.given((prompt, module), answer.tokens)
        score.total += 1
        score.exact += answer.tokens == want.tokens
        if answer.tokens != want.tokens:
            wrong.append((len(prompt), answer.cached_tokens, answer.handoff_tokens, answer.tokens, want.tokens))
        assert answer.first_logprob is not None
        difference = abs(answer.first_logprob - want.logprobs[0])
        score.largest_logprob_difference = max(score.largest_logprob_difference, difference)
        assert answer.meta["prompt_tokens"] == len(prompt)
        assert answer.meta["completion_tokens"] == len(answer.meta["output_token_logprobs"]) == NUM_TOKENS
    assert not wrong, f"{len(wrong)} of {score.total} differ; (prompt, cached, moved, got, want): {wrong[:3]}"
    assert score.largest_logprob_difference <= LOGPROB_TOLERANCE


def ask(pair: Pair, configuration: Configuration, prompt: Prompt) -> Answer:
    """One call; where answers are computed ahead, as a router does it, what follows the answer as well."""
    rid = uuid.uuid4().hex
    answer = pair.generate(prompt, NUM_TOKENS, rid=rid)
    if configuration.store:
        told = pair.continuation(rid).json()["input_ids"]
        assert told == [*prompt, *answer.tokens]
        before = pair.prefill_worker()["eager"]["tokens"]
        reply = pair.compute_ahead(told)
        assert reply.json()["meta_info"]["finish_reason"]["type"] == "length", reply.text
        # An answer is longer than a page.
        assert pair.prefill_worker()["eager"]["tokens"] > before
    return answer


@pytest.mark.parametrize("module", MODULES)
def test_cold_then_warm_then_twelve_at_a_time(configured, configuration, prompts, expected, score, module):
    pair, page_size = configured.pairs[module], configuration.page_size
    has_room = "--max-total-tokens" not in configuration.args
    pair.flush()
    from_store = pair.prefill_worker()["store"]["store_hit_tokens"] if configuration.store else 0
    cold = [ask(pair, configuration, prompt) for prompt in prompts]
    check(prompts, cold, module, expected, score)

    warm = pair.generate_all(prompts, NUM_TOKENS, 4)
    check(prompts, warm, module, expected, score)
    if has_room:
        for prompt, answer in zip(prompts, warm, strict=True):
            held = (len(prompt) - 1) // page_size * page_size
            # The prefill worker goes on in the page at the prompt's end; the decode worker has whole pages.
            assert held <= answer.cached_tokens < len(prompt)
            assert answer.handoff_tokens == len(prompt) - held

    if configuration.store:
        # The pool and the host tier, twice as large, had no room for all prompts.
        assert pair.prefill_worker()["store"]["store_hit_tokens"] > from_store

    pair.flush()
    together = pair.generate_all(prompts, NUM_TOKENS, 12)
    check(prompts, together, module, expected, score)
    if configuration.has_retractions:
        assert sum(answer.meta["num_retractions"] for answer in together) > 0
    # Flushing needs idle workers, and an idle worker checks that no slot of its pool is lost.
    pair.flush()

    handoff = pair.prefill.get("/deployment/state").json()["workers"][0]["handoff"]
    assert handoff["memory_calls"] == (handoff["calls"] if configuration.is_by_memory else 0)
    assert handoff["memory_bytes"] == (handoff["bytes"] if configuration.is_by_memory else 0)


@pytest.mark.parametrize("module", MODULES)
def test_a_conversation(configured, configuration, prompts, expected, score, module):
    """The next prompt finds what the answer before it has left, which is all of it where answers are computed ahead."""
    pair, page_size, context = configured.pairs[module], configuration.page_size, prompts[0]
    pair.flush()
    least = 0
    for _ in range(NUM_TURNS):
        answer = ask(pair, configuration, context)
        check([context], [answer], module, expected, score)
        assert least <= answer.cached_tokens < len(context)
        num_left = len(context) + (NUM_TOKENS if configuration.store else -1)
        least = num_left // page_size * page_size
        context = (*context, *answer.tokens, *NEW)


def test_samples_of_one_call_are_exact_and_its_prompt_is_prefilled_once(
    pair: Pair, prompts: Sequence[Prompt], expected: Expected
) -> None:
    params = {"temperature": 0, "max_new_tokens": NUM_TOKENS, "ignore_eos": True, "n": 3}
    body = {"input_ids": [list(prompt) for prompt in prompts[:2]], "sampling_params": params}
    decoded, prefilled = pair.post("/generate", body)
    assert decoded.status_code == 200, decoded.text
    want = [expected.tokens(prompt, pair.module) for prompt in prompts[:2] for _ in range(3)]
    assert [sample["output_ids"] for sample in decoded.json()] == want
    infos = [sample["meta_info"] for sample in prefilled.json()]
    computed = [info["prompt_tokens"] - info["cached_tokens"] for info in infos]
    # Of each prompt one sample computes all, and the others its last token.
    assert [sorted(computed[at : at + 3])[:2] for at in (0, 3)] == [[1, 1], [1, 1]]
