"""The prompts, the reference answers and the score sheet of the fidelity tests."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pytest

from tests.support.engines import MODELS_DIR, Endpoint, shared_engine
from tests.support.marks import starts_engine
from tests.support.reference import Continuation, Reference
from tests.support.scores import SCORES, Score

MODULES = ("math", "tool", "code")
NUM_PROMPTS = 51
NUM_TOKENS = 18

Prompt = tuple[int, ...]


@pytest.fixture(scope="session")
@starts_engine
def agents() -> Iterator[Endpoint]:
    """The tiny deployment as it is launched by default, for tests that need no particular start."""
    with shared_engine() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Held-out prompts of the three tasks in turn, as token ids; many hold earlier turns of other modules."""
    from transformers import AutoTokenizer

    from prefillshare.tiny.language.chatml import generation_prompt
    from prefillshare.tiny.language.conversations import held_out_conversations

    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / "tiny" / "base")
    found: list[Prompt] = []
    streams = [islice(held_out_conversations(7, task), NUM_PROMPTS // len(MODULES)) for task in MODULES]
    for conversations in zip(*streams, strict=True):
        for conversation in conversations:
            text = generation_prompt(conversation.turns(has_last_answer=False))
            found.append(tuple(tokenizer.encode(text, add_special_tokens=False)))
    assert len(set(found)) == NUM_PROMPTS
    return found


@pytest.fixture(scope="session")
def reference() -> Reference:
    """The tiny family in plain transformers + peft, float32."""
    tiny = MODELS_DIR / "tiny"
    return Reference(tiny / "base", {name: tiny / name for name in MODULES})


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


@pytest.fixture(scope="session")
def expected(reference: Reference) -> Expected:
    """What each module, and the base, must say."""
    return Expected(reference)


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Iterator[Score]:
    """A line of the fidelity matrix, printed at the end of the run."""
    score = Score(request.node.name.removeprefix("test_"))
    yield score
    SCORES.append(score)
