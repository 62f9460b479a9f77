"""Workers, prompts and reference answers of the fidelity tests across workers."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from tests.support.marks import starts_engine
from tests.support.pd import TINY, Pair, Workers, deployment_file, pd_workers
from tests.support.reference import Continuation, Reference
from tests.support.scores import SCORES, Score

MODULES = ("math", "tool")
"""One module with full weights, one with an adapter."""
NUM_PROMPTS = 24
NUM_TOKENS = 18

Prompt = tuple[int, ...]


@pytest.fixture(scope="package")
@starts_engine
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """The workers as they are launched by default, for tests that need no particular start."""
    with pd_workers(deployment_file(tmp_path_factory.mktemp("pd"), *MODULES)) as workers:
        yield workers


@pytest.fixture(params=MODULES)
def pair(request: pytest.FixtureRequest, workers: Workers) -> Pair:
    """The prefill worker with each decode worker in turn, their caches empty."""
    pair = workers.pairs[request.param]
    pair.flush()
    return pair


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Held-out prompts of the three tasks, as token ids."""
    from transformers import AutoTokenizer

    from prefillshare.tiny.language.chatml import generation_prompt
    from prefillshare.tiny.language.conversations import TASKS, held_out_conversations

    tokenizer = AutoTokenizer.from_pretrained(TINY / "base")
    streams = [islice(held_out_conversations(11, task), NUM_PROMPTS // len(TASKS)) for task in TASKS]
    texts = [
        generation_prompt(conversation.turns(has_last_answer=False))
        for group in zip(*streams, strict=True)
        for conversation in group
    ]
    return [tuple(tokenizer.encode(text, add_special_tokens=False)) for text in texts]


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The tiny family in plain transformers + peft, float32."""
    return Reference(TINY / "base", {name: TINY / name for name in MODULES})


class Expected(dict[tuple[Prompt, str | None], Continuation]):
    """The reference answer to a (prompt, module) pair, computed when it is first asked for."""

    def __init__(self, reference: Reference) -> None:
        super().__init__()
        self.reference = reference

    def __missing__(self, pair: tuple[Prompt, str | None]) -> Continuation:
        return self.given(pair, ())

    def given(self, pair: tuple[Prompt, str | None], answer: Sequence[int]) -> Continuation:
        """The same, whatever was answered: computed in one pass where that is right."""
        if pair not in self:
            prompt, module = pair
            self[pair] = self.reference.ask(module, prompt, NUM_TOKENS, answer)
        return self[pair]

    def tokens(self, prompt: Sequence[int], module: str | None) -> list[int]:
        """The tokens of the answer."""
        return self[tuple(prompt), module].tokens


@pytest.fixture(scope="session")
def expected(reference: Reference) -> Expected:
    """What each module must say."""
    return Expected(reference)


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Iterator[Score]:
    """A line of the fidelity matrix, printed at the end of the run."""
    score = Score("across workers: " + request.node.name.removeprefix("test_"))
    yield score
    SCORES.append(score)
