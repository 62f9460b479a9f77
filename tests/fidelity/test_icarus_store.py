"""Colocated engines over one store: an answer of rule "all-base" is found by an engine that never saw it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fidelity.icarus_expected import Rules
from tests.fidelity.icarus_family import PAIRED, make_icarus_family
from tests.support.marks import starts_engine
from tests.support.stores import PAGE_TOKENS, Relaunched, relaunched, whole_pages

NUM_TOKENS = 48


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = make_icarus_family(tmp_path_factory.mktemp("icarus"))
    file.write_text(f'{file.read_text()}[store]\nmemory = "192 MiB"\n')
    return file


@pytest.fixture(scope="module")
@starts_engine
def launches(family: Path) -> Iterator[Relaunched]:
    with relaunched(family) as launches:
        yield launches


def test_another_engine_finds_answers_in_the_store(launches, family, prompts, score):
    rules, few = Rules(family.parent), prompts[:4]
    said = [launches.endpoint.generate(prompt, PAIRED[0], NUM_TOKENS) for prompt in few]
    rules.check([(prompt, PAIRED[0]) for prompt in few], said, score)
    launches.wait_for_pages(sum((len(prompt) + NUM_TOKENS - 1) // PAGE_TOKENS for prompt in few))
    launches.kill()

    launches.launch()
    for prompt, before in zip(few, said, strict=True):
        turn = (*prompt, *before.tokens, *prompt[:9])
        answer = launches.endpoint.generate(turn, PAIRED[1], NUM_TOKENS)
        rules.check([(turn, PAIRED[1])], [answer], score)
        # Every whole page that the first engine computed, the answer's among them.
        assert answer.cached_tokens >= whole_pages(len(prompt) + NUM_TOKENS)
