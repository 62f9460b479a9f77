"""Adapters of any set of projections start, and say what the reference says."""

from pathlib import Path

import pytest

from tests.support.engines import shared_engine
from tests.support.random_models import make_adapter, make_base, write_deployment
from tests.support.reference import Reference

SETS = {
    "up-down": ("up_proj", "down_proj"),
    "q-o": ("q_proj", "o_proj"),
    "k-v": ("k_proj", "v_proj"),
    "q-k": ("q_proj", "k_proj"),
    "v": ("v_proj",),
    "gate": ("gate_proj",),
    "k-up": ("k_proj", "up_proj"),
}
PROMPTS = [[7, 30, 41, 90, 12, 55, 3 + number] * 3 for number in range(2)]
NUM_TOKENS = 8


@pytest.mark.engine
def test_adapters_of_any_projections_match_the_reference(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    adapters = {
        name: make_adapter(tmp_path / name, base, name, seed=seed, target_modules=targets)
        for seed, (name, targets) in enumerate(SETS.items(), start=1)
    }
    reference = Reference(base, adapters)
    asked = [(prompt, name) for prompt in PROMPTS for name in (*adapters, None)]
    with shared_engine(write_deployment(tmp_path / "deployment.toml", tuple(SETS))) as engine:
        answers = engine.generate_all(asked, NUM_TOKENS, concurrency=8)
    said: dict[str | None, tuple[int, ...]] = {}
    for (prompt, name), given in zip(asked, answers, strict=True):
        wanted = reference.ask(name, prompt, NUM_TOKENS)
        assert given.tokens == wanted.tokens, name
        assert given.first_logprob == pytest.approx(wanted.logprobs[0], abs=1e-4)
        said[name] = said.get(name, ()) + tuple(given.tokens)
    # Each adapter changes the answers, so that an adapter that was dropped would show.
    assert len(set(said.values())) == len(said)
