"""A training file becomes a module that a deployment accepts; the base stays as it is."""

import json
from pathlib import Path

import pytest
import torch

from prefillshare.config import load_deployment, load_training
from prefillshare.errors import ModuleError, TrainingError
from prefillshare.modules.deployment import resolve
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from prefillshare.training.finetune.examples import Collator, read_examples
from prefillshare.training.finetune.models import load_modules
from prefillshare.training.finetune.output import RunDirectory
from prefillshare.training.finetune.trainer import CacheConditionedTrainer
from prefillshare.training.model import load_base
from tests.support.random_models import make_base
from tests.support.training_runs import NUM_STEPS, Watcher, losses, train, write_training

TINY = Path(__file__).parents[3] / "models" / "tiny" / "base"
TOLERANCE = 1e-5


def write_deployment(directory: Path, base: Path, module: Path, kind: str) -> Path:
    topology = "colocated" if kind == "lora" else "disaggregated"
    file = directory / f"deployment-{base.name}.toml"
    file.write_text(
        f'name = "trained"\ntopology = "{topology}"\n[prefill]\nname = "base"\npath = "{base}"\n'
        f'[[decode]]\nname = "sums"\nkind = "{kind}"\npath = "{module}"\n'
    )
    return file


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_deployment_accepts_the_module_and_only_its_base(tmp_path: Path, kind: str) -> None:
    before = prefill_fingerprint(TINY, use_cache=False)
    file = write_training(
        tmp_path, TINY, kind=kind, optimizer={"max_steps": 4}, run={"dtype": "bf16"}, evaluation={"rows": 2}
    )
    watcher = Watcher()
    module = train(file, watcher)
    assert prefill_fingerprint(TINY, use_cache=False) == before
    resolved = resolve(load_deployment(write_deployment(tmp_path, TINY, module, kind)))
    assert resolved.warnings == ()
    manifest = read_manifest(module)
    assert manifest is not None
    assert (manifest.kind, manifest.objective, manifest.seed) == (kind, "cache-conditioned", 7)
    assert manifest.boundary == "last-prompt-token"
    assert manifest.prefill_fingerprint == before
    assert manifest.data_sha256 == read_examples(module / "run", "data").shard.sha256()
    assert manifest.training["config"]["optimizer"]["learning_rate"] == 0.002
    held_out = [line for line in watcher.said if line.startswith("held-out loss")]
    assert ["before" in held_out[0], "after" in held_out[1]] == [True, True]
    assert float(held_out[1].split()[4]) < float(held_out[0].split()[4])
    other = make_base(tmp_path / "other", layers=5, hidden=256, heads=4, kv_heads=2, head_dim=64)
    with pytest.raises(ModuleError):
        resolve(load_deployment(write_deployment(tmp_path, other, module, kind)))


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_training_leaves_the_base_bit_identical(tmp_path: Path, random_base: Path, kind: str) -> None:
    file = write_training(tmp_path, random_base, kind=kind)
    train(file)
    training = load_training(file)
    examples = read_examples(training.output / "run", "data")
    modules = load_modules(training, random_base)
    started = {name: tensor.detach().clone() for name, tensor in modules.decode.named_parameters()}
    trainer = CacheConditionedTrainer(modules, examples, training, RunDirectory(tmp_path / "again"))
    trainer.train()
    stored = dict(load_base(random_base, torch.float32).named_parameters())
    if kind == "full":
        assert modules.prefill is not None
        prefill = dict(modules.prefill.named_parameters())
        assert not any(torch.equal(tensor, started[name]) for name, tensor in modules.decode.named_parameters())
    else:
        prefill = {
            name.removeprefix("base_model.model.").replace(".base_layer", ""): tensor
            for name, tensor in modules.decode.named_parameters()
            if "lora_" not in name
        }
        assert all(
            not torch.equal(tensor, started[name])
            for name, tensor in modules.decode.named_parameters()
            if "lora_B" in name
        )
    assert prefill.keys() == stored.keys()
    assert all(torch.equal(prefill[name], tensor) for name, tensor in stored.items())


def test_accumulation_counts_target_tokens(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    for name, batch in {
        "wide": {"size": 4, "accumulation": 1},
        "mixed": {"size": 2, "accumulation": 2, "packed": False},
    }.items():
        output = train(write_training(tmp_path, random_base, output=name, batch=batch))
        pairs = list(zip(losses(output), losses(whole_run), strict=True))
        worst = max(abs(loss - other) for (_, loss), (_, other) in pairs)
        print(f"{name} batches: losses differ by at most {worst:.1e}")
        assert worst < TOLERANCE


def test_checkpointing_does_not_change_the_losses(tmp_path: Path, random_base: Path) -> None:
    runs = [
        losses(
            train(
                write_training(
                    tmp_path, random_base, kind="full", output=f"full-{flag}", run={"gradient_checkpointing": flag}
                )
            )
        )
        for flag in (False, True)
    ]
    worst = max(abs(loss - other) for (_, loss), (_, other) in zip(*runs, strict=True))
    print(f"with and without checkpointing: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE


def test_a_run_leaves_log_tensorboard_and_the_last_checkpoints(whole_run: Path) -> None:
    steps = [step for step, _ in losses(whole_run)]
    assert steps == list(range(1, NUM_STEPS + 1))
    line = json.loads((whole_run / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert line["tokens_per_s"] > 0
    assert line["remaining_s"] == 0
    assert sorted(path.name for path in (whole_run / "run").glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    (events,) = (whole_run / "run" / "tensorboard").iterdir()
    assert events.stat().st_size > 0
    assert not (whole_run / "run" / "partial").exists()


def test_an_ordinary_run_trains_on_its_own_kv(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    module = train(write_training(tmp_path, random_base, objective="full-ft"))
    manifest = read_manifest(module)
    assert manifest is not None
    assert manifest.objective == "full-ft"
    # An adapter starts as nothing, so the first loss is the same; afterwards the two ways part.
    first, *rest = zip(losses(module), losses(whole_run), strict=True)
    assert abs(first[0][1] - first[1][1]) < TOLERANCE
    assert all(entry[1] != other[1] for entry, other in rest)
    with pytest.raises(ModuleError, match="accept_naive"):
        resolve(load_deployment(write_deployment(tmp_path, random_base, module, "lora")))


def test_an_output_that_exists_is_refused(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    file = write_training(tmp_path, random_base)
    with pytest.raises(TrainingError, match="holds no run to resume"):
        train(file, resume=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="exists and is not empty: choose another output"):
        train(file)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
    for resume in (True, False):
        with pytest.raises(TrainingError, match="is finished: launch the module, or choose another output"):
            train(whole_run.parent / "out.toml", resume=resume)


def test_collator_of_a_run_shares_the_start_of_a_rows_documents(whole_run: Path) -> None:
    examples = read_examples(whole_run / "run", "data")
    layout = Collator(objective="cache-conditioned", packed=True).layout([examples[0], examples[0]])
    alone = Collator(objective="cache-conditioned", packed=True).layout([examples[0]])
    assert layout.prefill_tokens.shape == alone.prefill_tokens.shape
    assert layout.inputs.shape[1] == 2 * alone.inputs.shape[1]
