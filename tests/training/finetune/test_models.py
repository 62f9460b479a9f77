"""Bases that a run cannot be built on are refused before it starts."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from prefillshare.config.training import BaseModel
from prefillshare.errors import ModuleError, TrainingError
from prefillshare.modules.targets import check_targets
from prefillshare.training.finetune.models import load_tokenizer, locate_base
from prefillshare.training.model import load_base
from tests.support.random_models import make_base


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return make_base(tmp_path / "base", hidden=32, heads=2, kv_heads=1)


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_base_without_a_part_names_it(base: Path) -> None:
    (base / "tokenizer.json").rename(base / "moved.json")
    with pytest.raises(ModuleError, match=r"has no tokenizer\.json"):
        locate_base(BaseModel(path=base))
    (base / "model.safetensors").unlink()
    with pytest.raises(ModuleError, match="there are no"):
        locate_base(BaseModel(path=base))


def test_a_tokenizer_of_another_model_is_refused(base: Path) -> None:
    edit(base / "config.json", vocab_size=100)
    with pytest.raises(TrainingError, match=r"has \d+ tokens and the model has 100 embeddings"):
        load_tokenizer(base)


def test_a_base_without_a_chat_template_is_refused(base: Path) -> None:
    (base / "chat_template.jinja").unlink()
    with pytest.raises(TrainingError, match="has no chat template: use the instruct version"):
        load_tokenizer(base)


def test_a_tokenizer_without_an_end_is_refused(base: Path) -> None:
    edit(base / "tokenizer_config.json", eos_token=None)
    with pytest.raises(TrainingError, match="has no eos_token"):
        load_tokenizer(base)


def test_layers_whose_kv_is_not_whole_are_refused(base: Path) -> None:
    kinds = ["full_attention", "sliding_attention"]
    edit(base / "config.json", use_sliding_window=True, sliding_window=16, max_window_layers=1, layer_types=kinds)
    with pytest.raises(TrainingError, match="qwen3 has sliding_attention layers"):
        load_base(base)


def test_targets_that_no_layer_has_are_refused(tmp_path: Path) -> None:
    """A base that keeps query, key and value in one matrix."""
    tensors = {
        f"model.layers.0.{name}.weight": np.zeros((4, 4), dtype=np.float32)
        for name in ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.down_proj")
    }
    save_file({**tensors, "model.layers.0.norm.weight": np.zeros(4, dtype=np.float32)}, tmp_path / "model.safetensors")
    check_targets(tmp_path, ("o_proj", "down_proj"))
    with pytest.raises(ModuleError, match=r"'q_proj', and .* has no such layer \(it has down_proj, o_proj, qkv_proj\)"):
        check_targets(tmp_path, ("o_proj", "q_proj"))
