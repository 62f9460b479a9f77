"""The prompts, the reference answers and the score sheet of the fidelity tests."""

from collections.abc import Iterator
from itertools import islice

import pytest

from tests.support.engines import MODELS_DIR, Endpoint, shared_engine
from tests.support.reference import Continuation, Reference
from tests.support.scores import SCORES, Score

MODULES = ("math", "tool", "code")
NUM_PROMPTS = 51
NUM_TOKENS = 24

Prompt = tuple[int, ...]


@pytest.fixture(scope="session")
def agents() -> Iterator[Endpoint]:
    """The tiny deployment as it is launched by default, for tests that need no particular start."""
    with shared_engine() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Held-out prompts of the three tasks in turn, as token ids; many hold earlier turns of other modules."""
    from transformers import AutoTokenizer

    from prefillshare.modules.tiny.chatml import generation_prompt
    from prefillshare.modules.tiny.conversations import held_out_conversations

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


@pytest.fixture(scope="session")
def expected(prompts: list[Prompt], reference: Reference) -> dict[tuple[Prompt, str | None], Continuation]:
    """The reference answer of every module, and of the base, to every prompt."""
    return {
        (prompt, module): reference.ask(module, prompt, NUM_TOKENS) for module in (*MODULES, None) for prompt in prompts
    }


@pytest.fixture
def score(request: pytest.FixtureRequest) -> Iterator[Score]:
    """A line of the fidelity matrix, printed at the end of the run."""
    score = Score(request.node.name.removeprefix("test_"))
    yield score
    SCORES.append(score)
