"""A run that learns from the adapter that it goes on from: that one stays, and no trace of it is left in the module."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefillshare.config import load_training
from prefillshare.modules.manifest import read_manifest
from prefillshare.training.distillation import TEACHER
from prefillshare.training.finetune.estimate import estimate
from prefillshare.training.finetune.examples import read_examples, write_examples
from prefillshare.training.finetune.models import load_modules
from prefillshare.training.finetune.output import RunDirectory
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.finetune.trainer import CacheConditionedTrainer
from prefillshare.training.shard import Document
from tests.support.training_runs import NUM_STEPS, Stopped, Watcher, going_on, losses, stop_at, train
from tests.training.finetune.test_faults import train_in_two_processes

TOLERANCE = 1e-5
WEIGHTS = "adapter_model.safetensors"


def write(folder: Path, base: Path, start: Path, **settings: object) -> Path:
    return going_on(folder, base, start, distillation={"states": 0.5}, **settings)


@pytest.fixture
def whole(tmp_path: Path, random_base: Path, ordinary: Path) -> Path:
    """Output of a run that nothing interrupted."""
    return train(write(tmp_path, random_base, ordinary, output="whole"))


def test_the_module_alone_is_written(whole: Path, ordinary: Path) -> None:
    assert not [path for path in whole.rglob(f"*{TEACHER}*") if path.is_dir()]
    module, start = load_file(whole / WEIGHTS), load_file(ordinary / WEIGHTS)
    assert module.keys() == start.keys()
    assert not any(torch.equal(module[name], start[name]) for name in module)
    manifest = read_manifest(whole)
    assert manifest is not None
    assert manifest.shares_prefill
    assert manifest.training["config"]["distillation"] == {"labels": 1.0, "answers": 1.0, "states": 0.5}


def test_what_is_learned_from_is_the_adapter_as_it_was(whole: Path, random_base: Path, ordinary: Path) -> None:
    training = load_training(whole.parent / "whole.toml")
    modules = load_modules(training, random_base)
    directory = RunDirectory(whole.parent / "again")
    CacheConditionedTrainer(modules, read_examples(whole / "run", "data"), training, directory).train()
    parameters = dict(modules.decode.named_parameters())
    for name, tensor in load_file(ordinary / WEIGHTS).items():
        before, now = (parameters[name.replace(".weight", f".{kind}.weight")] for kind in (TEACHER, "default"))
        assert torch.equal(before, tensor)
        assert not torch.equal(now, tensor)
        assert (before.requires_grad, now.requires_grad) == (False, True)


def test_a_module_comes_nearer_to_the_adapter_than_by_labels_alone(
    tmp_path: Path, random_base: Path, ordinary: Path
) -> None:
    """Over shared KV it says what the adapter says over its own: that is in no label."""
    rates = {"optimizer": {"max_steps": 30, "learning_rate": 0.01}, "run": {"save_steps": 30, "log_steps": 10}}
    only = {"labels": 0.0}
    taught = train(going_on(tmp_path, random_base, ordinary, output="taught", distillation=only, **rates))
    first, *_, last = losses(taught)
    print(f"distance from the adapter {first[1]:.3f} at first, {last[1]:.3f} at last")
    assert last[1] < 0.7 * first[1]


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, random_base: Path, ordinary: Path, whole: Path) -> None:
    file = write(tmp_path, random_base, ordinary)
    with pytest.raises(Stopped):
        train(file, stop_at(3))
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole)
    assert (tmp_path / "out" / WEIGHTS).read_bytes() == (whole / WEIGHTS).read_bytes()


def test_another_way_of_batching_does_not_change_the_losses(
    tmp_path: Path, random_base: Path, ordinary: Path, whole: Path
) -> None:
    for name, batch in {
        "wide": {"size": 4, "accumulation": 1},
        "mixed": {"size": 2, "accumulation": 2, "packed": False},
    }.items():
        output = train(write(tmp_path, random_base, ordinary, output=name, batch=batch))
        worst = max(abs(loss - other) for (_, loss), (_, other) in zip(losses(output), losses(whole), strict=True))
        print(f"{name} batches: losses differ by at most {worst:.1e}")
        assert worst < TOLERANCE


@pytest.mark.long
def test_two_processes_equal_one_with_twice_the_accumulation(
    tmp_path: Path, random_base: Path, ordinary: Path, whole: Path
) -> None:
    file = write(tmp_path, random_base, ordinary, batch={"accumulation": 2})
    train_in_two_processes(file)
    assert len(losses(tmp_path / "out")) == NUM_STEPS
    pairs = zip(losses(tmp_path / "out"), losses(whole), strict=True)
    worst = max(abs(loss - other) for (_, loss), (_, other) in pairs)
    print(f"two processes against one: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE


def test_it_goes_together_with_a_range_of_ratios(tmp_path: Path, random_base: Path, ordinary: Path) -> None:
    file = write(tmp_path, random_base, ordinary)
    file.write_text("sharing_ratio = [0.0, 1.0]\n" + file.read_text())
    runs = [losses(train(file))]
    file.write_text(file.read_text().replace('"out"', '"padded"').replace("accumulation = 4", "accumulation = 1"))
    file.write_text(file.read_text().replace("size = 1", "size = 4\npacked = false"))
    runs.append(losses(train(file)))
    worst = max(abs(loss - other) for (_, loss), (_, other) in zip(*runs, strict=True))
    print(f"padded against one by one: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE


def test_a_dry_run_counts_it(tmp_path: Path, random_base: Path, ordinary: Path) -> None:
    training = load_training(write(tmp_path, random_base, ordinary))
    plan = Finetune(training, Watcher()).plan()
    assert plan.figures["num_teacher_tokens"] == plan.figures["num_tokens"]
    assert [line for line in plan.lines if line.startswith("teacher   the adapter as it is: ")]
    shaped = Finetune(training, Watcher()).training
    rows = [[Document(tokens=range(3, 43), weights=[0.0] * 30 + [1.0] * 10)]]
    examples = write_examples(tmp_path / "examples", "data", rows)
    found, without = (estimate(one, random_base, examples) for one in (shaped, replace(shaped, distillation=None)))
    modules = load_modules(shaped, random_base)
    assert found.weight_bytes == sum(tensor.numel() * tensor.element_size() for tensor in modules.decode.parameters())
    assert found.weight_bytes - without.weight_bytes == 4 * found.num_trained
    assert found.state_bytes == without.state_bytes
    assert found.activation_bytes > without.activation_bytes
