"""The recipe that a newcomer runs first: what it makes in minutes can be served and is right."""

from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from prefillshare.config import load_deployment, load_training
from prefillshare.modules.deployment import resolve
from prefillshare.tiny.language.calls import call_rows
from prefillshare.training.finetune.run import Finetune
from tests.support.reference import Reference
from tests.support.training_runs import Watcher

MODELS = Path(__file__).parents[3] / "models"
NUM_QUESTIONS = 12


@pytest.mark.slow
def test_the_first_run_makes_a_module_that_answers_new_questions(tmp_path: Path) -> None:
    training = load_training(MODELS / "recipes" / "tiny-calls.toml")
    module = Finetune(replace(training, output=tmp_path / "calls"), Watcher()).run(resume=False)

    file = tmp_path / "tiny-calls.toml"
    text = (MODELS / "tiny-calls.toml").read_text()
    file.write_text(text.replace('path = "tiny-calls"', f'path = "{module}"').replace('"tiny/', f'"{MODELS}/tiny/'))
    assert resolve(load_deployment(file)).warnings == ()

    tokenizer = AutoTokenizer.from_pretrained(MODELS / "tiny" / "base")
    reference = Reference(MODELS / "tiny" / "base", {"calls": module})
    right = 0
    for row in call_rows(1, NUM_QUESTIONS):
        *asked, answer = row["messages"]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        wanted = tokenizer.encode(answer["content"] + "<|im_end|>", add_special_tokens=False)
        right += reference.ask("calls", prompt, len(wanted)).tokens == wanted
    print(f"{right} of {NUM_QUESTIONS} new questions answered right")
    assert right >= NUM_QUESTIONS - 1
