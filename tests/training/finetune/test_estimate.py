"""What a dry run says about memory: counted where it can be, and a run that cannot fit is told so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefillshare.config import load_training
from prefillshare.training.finetune.estimate import device_memory, estimate
from prefillshare.training.finetune.examples import Examples, write_examples
from prefillshare.training.finetune.models import load_modules
from prefillshare.training.shard import Document
from tests.support.training_runs import write_training


@pytest.fixture
def examples(tmp_path: Path) -> Examples:
    rows = [[Document(tokens=range(3, 43), weights=[0.0] * 30 + [1.0] * 10)]]
    return write_examples(tmp_path, "data", rows)


@pytest.mark.parametrize(
    ("kind", "objective"), [("lora", "cache-conditioned"), ("lora", "icarus"), ("full", "cache-conditioned")]
)
def test_weights_and_states_are_counted(
    tmp_path: Path, random_base: Path, examples: Examples, kind: str, objective: str
) -> None:
    training = load_training(write_training(tmp_path, random_base, kind=kind, objective=objective))
    found = estimate(training, random_base, examples)
    modules = load_modules(training, random_base)
    trained = sum(parameter.numel() for parameter in modules.decode.parameters() if parameter.requires_grad)
    weights = [*modules.decode.parameters(), *(modules.prefill.parameters() if modules.prefill else ())]
    assert found.num_trained == trained
    assert found.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in weights)
    optimizer = torch.optim.AdamW([parameter for parameter in modules.decode.parameters() if parameter.requires_grad])
    assert found.state_bytes == 4 * trained * (1 + len(optimizer.param_groups[0]["betas"]))


def test_answers_cost_activations_and_prompts_hardly(tmp_path: Path, random_base: Path, examples: Examples) -> None:
    training = load_training(write_training(tmp_path, random_base, batch={"packed": True}))
    shared = estimate(training, random_base, examples)
    own = estimate(replace(training, objective="full-ft"), random_base, examples)
    all_base = estimate(replace(training, objective="icarus"), random_base, examples)
    again = replace(training, run=replace(training.run, gradient_checkpointing=True))
    assert shared.activation_bytes < own.activation_bytes / 2
    # As many queries, which keep no KV of their own.
    assert all_base.activation_bytes < shared.activation_bytes
    assert estimate(again, random_base, examples).activation_bytes < shared.activation_bytes


def test_a_run_that_cannot_fit_is_told_so(tmp_path: Path, random_base: Path, examples: Examples) -> None:
    found = estimate(load_training(write_training(tmp_path, random_base)), random_base, examples)
    assert "will not fit" not in "\n".join(found.lines())
    huge = replace(found, state_bytes=2 * device_memory()[1])
    assert "will not fit; set gradient_checkpointing = true" in "\n".join(huge.lines())
