"""The fingerprint changes with each thing that decides what KV means, and with nothing else."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from prefillshare.errors import ModuleError
from prefillshare.modules import fingerprint
from prefillshare.modules.fingerprint import geometry, prefill_fingerprint
from tests.support.random_models import make_base


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return make_base(tmp_path / "base")


def _edit_config(key: str, value: object) -> Callable[[Path], None]:
    def edit(base: Path) -> None:
        config = json.loads((base / "config.json").read_text())
        (base / "config.json").write_text(json.dumps({**config, key: value}))

    return edit


def _append(name: str) -> Callable[[Path], None]:
    def edit(base: Path) -> None:
        with (base / name).open("a") as stream:
            stream.write(" ")

    return edit


def _flip_one_weight(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] += np.float32(1e-6)
    save_file(tensors, base / "model.safetensors")


def _rename_tensor(base: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm2.weight"] = tensors.pop("model.norm.weight")
    save_file(tensors, base / "model.safetensors")


@pytest.mark.parametrize(
    "edit",
    [
        _edit_config("num_hidden_layers", 3),
        _edit_config("num_key_value_heads", 4),
        _edit_config("head_dim", 32),
        _edit_config("rope_theta", 20000.0),
        _edit_config("rope_scaling", {"type": "yarn", "factor": 2.0}),
        _edit_config("vocab_size", 400),
        _append("tokenizer.json"),
        _append("chat_template.jinja"),
        _flip_one_weight,
        _rename_tensor,
    ],
)
def test_it_changes_with_each_ingredient(base: Path, edit: Callable[[Path], None]) -> None:
    before = prefill_fingerprint(base)
    edit(base)
    assert prefill_fingerprint(base) != before


def test_it_does_not_depend_on_place_sharding_or_other_files(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(base, other)
    (other / "README.md").write_text("notes")
    tensors = load_file(other / "model.safetensors")
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, other / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, other / "model-00002-of-00002.safetensors")
    (other / "model.safetensors").unlink()
    assert prefill_fingerprint(other) == prefill_fingerprint(base)


def test_rope_settings_of_old_and_new_checkpoints_are_the_same(base: Path) -> None:
    old = geometry(base)
    config = json.loads((base / "config.json").read_text())
    theta = config.pop("rope_theta")
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": theta}
    (base / "config.json").write_text(json.dumps(config))
    assert geometry(base) == old


def test_the_answer_is_remembered_until_a_file_changes(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prefill_fingerprint(base)
    monkeypatch.setattr(fingerprint, "_weights_sha256", lambda path: "another")
    assert prefill_fingerprint(base) == first
    assert prefill_fingerprint(base, use_cache=False) != first
    os.utime(base / "model.safetensors", (1, 1))
    assert prefill_fingerprint(base) != first


def test_a_broken_cache_entry_is_ignored(base: Path) -> None:
    first = prefill_fingerprint(base)
    (entry,) = (base.parent / "cache" / "prefillshare" / "fingerprints").iterdir()
    entry.write_text("{")
    assert prefill_fingerprint(base) == first


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda base: (base / "config.json").unlink(), "has no config.json"),
        (lambda base: (base / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda base: (base / "config.json").write_text("{}"), "has no 'num_attention_heads'"),
        (lambda base: (base / "tokenizer.json").unlink(), "has no tokenizer.json"),
        (lambda base: (base / "model.safetensors").unlink(), "no *.safetensors"),
        (lambda base: (base / "model.safetensors").write_bytes(b"1234"), "not a complete safetensors file"),
        (lambda base: os.truncate(base / "model.safetensors", 5000), "not a complete safetensors file"),
        (
            lambda base: (base / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "gone.safetensors"}}'
            ),
            "shard gone.safetensors is missing",
        ),
    ],
)
def test_an_incomplete_checkpoint_is_named(base: Path, damage: Callable[[Path], object], said: str) -> None:
    damage(base)
    with pytest.raises(ModuleError) as caught:
        prefill_fingerprint(base)
    assert said in str(caught.value)
