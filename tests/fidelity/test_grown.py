"""Modules of a family that grows, served beside each other, say what the reference says."""

from pathlib import Path

import pytest

from tests.support.engines import shared_engine
from tests.support.families import add_random_task
from tests.support.random_models import make_base, write_deployment
from tests.support.reference import Reference

TASKS = ("first", "second", "third")
PROMPTS = [[7, 30, 41, 90, 12, 55, 3 + number] * 3 for number in range(2)]
NUM_TOKENS = 8


@pytest.mark.engine
def test_modules_of_a_family_match_the_reference(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    for seed, name in enumerate(TASKS, start=1):
        add_random_task(tmp_path / "family", base, name, seed=seed)
    modules = {name: tmp_path / "family" / name for name in TASKS}
    reference = Reference(base, modules)
    asked = [(prompt, name) for prompt in PROMPTS for name in (*TASKS, None)]
    file = write_deployment(tmp_path / "family" / "deployment.toml", TASKS)
    file.write_text(file.read_text().replace('path = "base"', f'path = "{base}"'))
    with shared_engine(file) as engine:
        answers = engine.generate_all(asked, NUM_TOKENS, concurrency=8)
    said: dict[str | None, tuple[int, ...]] = {}
    for (prompt, name), given in zip(asked, answers, strict=True):
        wanted = reference.ask(name, prompt, NUM_TOKENS)
        assert given.tokens == wanted.tokens, name
        assert given.first_logprob == pytest.approx(wanted.logprobs[0], abs=1e-4)
        said[name] = said.get(name, ()) + tuple(given.tokens)
    # Each module changes the answers, so that one that was dropped would show.
    assert len(set(said.values())) == len(said)
