"""The weights in the repository are the ones that the recipe makes, small enough, and good at their tasks."""

import json
from pathlib import Path

import pytest
import torch

from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.suites.tiny import load_suite
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from prefillshare.tiny.answers import TinyAnswers
from prefillshare.tiny.data import tokenizer_texts, write_tuning_data
from prefillshare.tiny.language.conversations import TASKS
from prefillshare.tiny.language.tokenizer import chat_template, train_tokenizer
from prefillshare.tiny.recipe import TinyRecipe

TINY = Path(__file__).parents[2] / "models" / "tiny"
MAX_BYTES = 25 * 10**6


def test_all_weights_together_are_small():
    assert sum(path.stat().st_size for path in TINY.rglob("*.safetensors")) <= MAX_BYTES


def test_manifests_name_the_base_beside_them():
    fingerprint = prefill_fingerprint(TINY / "base")
    for name in ("base", *TASKS, *(f"naive/{task}" for task in TASKS)):
        assert read_manifest(TINY / name).prefill_fingerprint == fingerprint
    assert {read_manifest(TINY / task).objective for task in TASKS} == {"cache-conditioned"}
    assert {read_manifest(TINY / "naive" / task).objective for task in TASKS} == {"full-ft"}


def test_tokenizer_and_data_are_those_of_the_recipe(tmp_path):
    from tokenizers import Tokenizer

    recipe = TinyRecipe()
    train_tokenizer(tokenizer_texts(recipe), recipe.vocab_size, tmp_path)
    shipped = TINY / "base" / "tokenizer.json"
    assert (tmp_path / "tokenizer.json").read_bytes() == shipped.read_bytes()
    assert (TINY / "base" / "chat_template.jinja").read_text() == chat_template()
    recorded = json.loads((TINY / "build.json").read_text())
    shard = write_tuning_data(
        recipe, Tokenizer.from_file(str(shipped)), "code", recipe.tuning.num_tokens, tmp_path / "code.npz"
    )
    assert shard.sha256() == recorded["steps"]["code data"]["sha256"] == read_manifest(TINY / "code").data_sha256


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_modules_solve_held_out_problems(task):
    suite = load_suite(f"tiny-{task}", 40)
    answers = TinyAnswers(TINY, task, dtype=torch.float32).answer(
        [list(question.messages) for question in suite.questions]
    )
    score = score_answers(suite, task, answers)
    print(f"{suite.name}: {score.num_right} of 40 over the base's KV")
    assert score.accuracy >= 0.85
