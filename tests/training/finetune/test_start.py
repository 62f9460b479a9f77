"""A run that goes on from an adapter: it begins where that one ended, in its shape, and leaves it as it is."""

import shutil
from pathlib import Path

import pytest

from prefillshare.errors import ConfigError, TrainingError
from prefillshare.modules.adapter import read_adapter
from prefillshare.modules.manifest import read_manifest
from prefillshare.modules.unshared import adapter_kv_sha256
from tests.support.random_models import make_adapter, make_base
from tests.support.training_runs import Stopped, going_on, losses, stop_at, train


def test_it_has_the_shape_of_what_it_began_from_which_stays(tmp_path: Path, random_base: Path, ordinary: Path) -> None:
    before = adapter_kv_sha256(ordinary)
    module = train(going_on(tmp_path, random_base, ordinary))
    made = read_adapter(module, "made")
    assert (made.rank, made.config["lora_alpha"], made.target_modules) == (6, 24, ("q_proj", "up_proj"))
    assert made.config["lora_dropout"] == 0
    manifest = read_manifest(module)
    assert manifest is not None
    assert manifest.shares_prefill
    assert manifest.training["start"] == {"adapter_sha256": before}
    assert adapter_kv_sha256(ordinary) == before
    assert adapter_kv_sha256(module) != before


def test_it_begins_where_the_other_ended(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    again = train(going_on(tmp_path, random_base, whole_run))
    first, after = losses(whole_run), losses(again)
    # The same rows in the same order: what was learned of them is there at the first step.
    assert after[0][1] < first[0][1]
    assert read_manifest(again).prefill_fingerprint == read_manifest(whole_run).prefill_fingerprint  # type: ignore[union-attr]


def test_a_run_that_was_stopped_goes_on_with_the_same_start_alone(
    tmp_path: Path, random_base: Path, ordinary: Path
) -> None:
    file = going_on(tmp_path, random_base, ordinary)
    with pytest.raises(Stopped):
        train(file, watcher=stop_at(3))
    kept = tmp_path / "kept"
    shutil.copytree(ordinary, kept)
    make_adapter(
        ordinary, random_base, "ordinary", seed=4, objective="full-ft", rank=6, target_modules=("q_proj", "up_proj")
    )
    with pytest.raises(TrainingError, match=r"adapter_sha256 = .* and now it is|lora.alpha = 24 and now it is"):
        train(file, resume=True)
    shutil.rmtree(ordinary)
    kept.rename(ordinary)
    train(file, resume=True)
    other = train(going_on(tmp_path, random_base, ordinary, output="whole"))
    assert losses(tmp_path / "out") == losses(other)


def test_it_must_belong_to_the_base(tmp_path: Path, random_base: Path, ordinary: Path) -> None:
    other = make_base(tmp_path / "other", seed=9, hidden=32, heads=2, kv_heads=1)
    with pytest.raises(TrainingError, match="was trained on another base"):
        train(going_on(tmp_path, other, ordinary))


def test_a_module_that_shares_is_nothing_to_learn_from(tmp_path: Path, random_base: Path, whole_run: Path) -> None:
    """Asked over KV of its own, it knows less than it does over shared KV."""
    with pytest.raises(TrainingError, match=r"was trained over shared KV.*: go on without \[distillation\]"):
        train(going_on(tmp_path, random_base, whole_run, distillation={"states": 1.0}))
    assert not (tmp_path / "out").exists()


def test_keys_and_values_have_no_use_where_all_are_the_bases(tmp_path: Path, random_base: Path) -> None:
    folder = tmp_path / "all"
    make_adapter(folder, random_base, "all", seed=3, objective="full-ft")
    with pytest.raises(TrainingError, match=r'changes k_proj, .*go on with objective "cache-conditioned"'):
        train(going_on(tmp_path, random_base, folder, objective="icarus"))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('start = "nowhere"', r"start 'nowhere' is no adapter .*: give the directory of one"),
        ('start = "."\n[lora]\nrank = 4', r"\[lora\] stands beside start"),
    ],
)
def test_bad_values(tmp_path: Path, random_base: Path, line: str, said: str) -> None:
    file = going_on(tmp_path, random_base, tmp_path)
    text = "".join(kept for kept in file.read_text().splitlines(keepends=True) if not kept.startswith("start"))
    file.write_text(line.partition("\n")[0] + "\n" + text + line.partition("\n")[2] + "\n")
    with pytest.raises(ConfigError, match=said):
        train(file)


def test_it_is_an_adapter(tmp_path: Path, random_base: Path, ordinary: Path) -> None:
    with pytest.raises(ConfigError, match='start stands beside kind = "full"'):
        train(going_on(tmp_path, random_base, ordinary, kind="full"))
