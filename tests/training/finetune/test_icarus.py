"""A run with objective "icarus": all KV is the base's, as the manifest says; batches, faults, ranks change nothing."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from prefillshare.config import load_deployment
from prefillshare.modules.deployment import resolve
from prefillshare.modules.manifest import read_manifest
from prefillshare.training.finetune.examples import read_examples
from prefillshare.training.layout import lay_out_all_base
from prefillshare.training.model import load_base
from prefillshare.training.objective import layout_loss
from tests.support.training_runs import NUM_STEPS, Watcher, losses, train, write_training
from tests.training.finetune.test_faults import KILLED_AT, run, train_in_two_processes
from tests.training.finetune.test_run import write_deployment

TOLERANCE = 1e-5
TARGETS = {"q_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
HELD_OUT = 2


def write(directory: Path, base: Path, **settings: object) -> Path:
    return write_training(directory, base, objective="icarus", lora={"rank": 32}, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, random_base: Path) -> Path:
    """Output of a run that nothing interrupted."""
    return train(write(tmp_path_factory.mktemp("icarus"), random_base))


def largest_difference(output: Path, other: Path) -> float:
    pairs = list(zip(losses(output), losses(other), strict=True))
    assert len(pairs) == NUM_STEPS
    return max(abs(loss - other_loss) for (_, loss), (_, other_loss) in pairs)


def test_a_deployment_accepts_the_module_and_its_manifest_has_the_rule(
    tmp_path: Path, random_base: Path, whole: Path
) -> None:
    resolved = resolve(load_deployment(write_deployment(tmp_path, random_base, whole, "lora")))
    assert resolved.warnings == ()
    assert resolved.modules[0].warning is None
    manifest = read_manifest(whole)
    assert manifest is not None
    assert (manifest.kind, manifest.objective, manifest.kv_rule) == ("lora", "icarus", "all-base")
    assert set(manifest.training["config"]["lora"]["targets"]) == TARGETS


def test_the_adapter_changes_nothing_that_makes_kv_and_peft_loads_it(random_base: Path, whole: Path) -> None:
    config = json.loads((whole / "adapter_config.json").read_text())
    assert set(config["target_modules"]) == TARGETS
    stored = load_file(whole / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in stored} == TARGETS
    assert all(tensor.abs().max() > 0 for tensor in stored.values())
    loaded = PeftModel.from_pretrained(load_base(random_base, torch.float32), whole)
    assert all(
        torch.equal(dict(loaded.named_parameters())[name.replace(".weight", ".default.weight")], tensor)
        for name, tensor in stored.items()
    )


def test_the_held_out_loss_is_that_over_base_kv(tmp_path: Path, random_base: Path) -> None:
    watcher = Watcher()
    module = train(write(tmp_path, random_base, evaluation={"rows": HELD_OUT}), watcher)
    before, after = (line for line in watcher.said if line.startswith("held-out loss"))
    assert before.endswith(f"({HELD_OUT} rows, all KV the base's)")
    model = PeftModel.from_pretrained(load_base(random_base, torch.float32), module).eval()
    documents = [document for example in read_examples(module / "run", "held-out") for document in example]
    layout = lay_out_all_base(documents, packed=False)
    with torch.no_grad():
        found = float(layout_loss(model, layout) / layout.weights.sum())
    print(f"held-out loss {found:.5f}, said {after.split()[4]}")
    assert abs(found - float(after.split()[4])) < 1e-4
    assert found < float(before.split()[4])


def test_another_way_of_batching_does_not_change_the_losses(tmp_path: Path, random_base: Path, whole: Path) -> None:
    for name, batch in {
        "wide": {"size": 4, "accumulation": 1},
        "mixed": {"size": 2, "accumulation": 2, "packed": False},
    }.items():
        output = train(write(tmp_path, random_base, output=name, batch=batch))
        worst = largest_difference(output, whole)
        print(f"{name} batches: losses differ by at most {worst:.1e}")
        assert worst < TOLERANCE


def test_checkpointing_does_not_change_the_losses(tmp_path: Path, random_base: Path, whole: Path) -> None:
    file = write(tmp_path, random_base, run={"gradient_checkpointing": True})
    worst = largest_difference(train(file), whole)
    print(f"with and without checkpointing: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE


def test_it_parts_from_training_over_own_answers(whole: Path, whole_run: Path) -> None:
    # An adapter starts as nothing, so the first loss is the same; afterwards the two ways part.
    (first, *rest) = [(loss, other) for (_, loss), (_, other) in zip(losses(whole), losses(whole_run), strict=True)]
    assert abs(first[0] - first[1]) < TOLERANCE
    assert all(abs(loss - other) > TOLERANCE for loss, other in rest)


def test_bfloat16_comes_close(tmp_path: Path, random_base: Path, whole: Path) -> None:
    output = train(write(tmp_path, random_base, run={"dtype": "bf16"}))
    worst = largest_difference(output, whole)
    print(f"bfloat16 against float32: losses differ by at most {worst:.1e}")
    assert 0 < worst < 0.1
    assert {tensor.dtype for tensor in load_file(output / "adapter_model.safetensors").values()} == {torch.float32}


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_losses(tmp_path: Path, random_base: Path, whole: Path) -> None:
    file = write(tmp_path, random_base)
    killed = run("tests.support.training_runs", str(file), str(KILLED_AT))
    assert killed.returncode == -9, killed.stderr
    assert read_manifest(tmp_path / "out") is None
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole)
    module, other = (path / "adapter_model.safetensors" for path in (tmp_path / "out", whole))
    assert module.read_bytes() == other.read_bytes()


@pytest.mark.long
def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path, random_base: Path, whole: Path) -> None:
    file = write(tmp_path, random_base, batch={"accumulation": 2})
    train_in_two_processes(file)
    worst = largest_difference(tmp_path / "out", whole)
    print(f"two processes against one: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE
