"""The reference of `bench --check-answers` and `verify` decodes each module by the KV rule of its manifest."""

import random
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from prefillshare.bench.reference import Asked, compare_answers
from prefillshare.config import load_deployment
from tests.support.random_models import make_adapter, make_family
from tests.training.test_all_base import TARGETS, answer_by_definition

NUM_TOKENS = 8


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = make_family(tmp_path_factory.mktemp("family"), ("math",))
    base = file.parent / "base"
    make_adapter(file.parent / "math", base, "math", seed=1, objective="icarus", target_modules=TARGETS)
    return file


@pytest.mark.slow
def test_answers_over_base_kv_are_held_against_that_rule(file: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(file.parent / "base", dtype=torch.float32)
    model = PeftModel.from_pretrained(base, file.parent / "math").eval()
    rng = random.Random(1)
    prompts = [rng.choices(range(10, 300), k=length) for length in (5, 20, 40)]
    answers = [answer_by_definition(model, prompt, NUM_TOKENS) for prompt in prompts]
    asked = [Asked(module="math", prompt=prompt, num_tokens=NUM_TOKENS) for prompt in prompts]
    deployment = load_deployment(file)
    assert compare_answers(deployment, asked, answers)["exact"] == 3
    # Without the manifest nobody knows of the rule: the reference is that of other adapters, and says otherwise.
    (file.parent / "math" / "prefillshare.json").unlink()
    assert compare_answers(deployment, asked, answers)["exact"] < 3
