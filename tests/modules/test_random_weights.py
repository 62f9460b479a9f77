"""Random checkpoints can be read by transformers, in both dtypes, and are the same for the same seed."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prefillshare.modules.fingerprint import tensor_entries, weight_files
from prefillshare.modules.gpu_weights import write_checkpoint
from prefillshare.modules.random_weights import (
    base_tensors,
    num_parameters,
    qwen3_config,
    write_sharded_checkpoint,
)


def _config(dtype: str, *, ties_embeddings: bool = False) -> dict[str, object]:
    return qwen3_config(
        vocab_size=64,
        layers=2,
        hidden=32,
        intermediate=48,
        heads=4,
        kv_heads=2,
        head_dim=16,
        max_positions=128,
        dtype=dtype,
        ties_embeddings=ties_embeddings,
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_sharded_checkpoint_holds_the_random_weights(tmp_path: Path, dtype: str) -> None:
    write_sharded_checkpoint(tmp_path, _config(dtype), seed=3)
    files = weight_files(tmp_path)
    assert len(files) == 3
    written = {name: tensor for file in files for name, tensor in load_file(file).items()}
    expected = {name: tensor for shard in base_tensors(_config(dtype), 3) for name, tensor in shard.items()}
    assert written.keys() == expected.keys() == {entry.name for entry in tensor_entries(files)}
    # bfloat16 has 8 bits of precision, and the lower half of each float32 is cut off.
    tolerance = 0 if dtype == "float32" else 2**-7
    for name, tensor in written.items():
        assert tensor.dtype == getattr(torch, dtype)
        assert torch.allclose(tensor.float(), torch.from_numpy(expected[name]), rtol=tolerance, atol=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(model.lm_head.weight, written["lm_head.weight"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ties_embeddings", [False, True])
def test_torch_writes_the_same_tensors_with_other_values(tmp_path: Path, dtype: str, ties_embeddings: bool) -> None:
    config = _config(dtype, ties_embeddings=ties_embeddings) | {"num_hidden_layers": 6}  # more than writers
    write_sharded_checkpoint(tmp_path / "numpy", config, seed=3)
    write_checkpoint(tmp_path / "torch", config, seed=3, device="cpu")
    ours, theirs = (
        {name: tensor for file in weight_files(tmp_path / kind) for name, tensor in load_file(file).items()}
        for kind in ("torch", "numpy")
    )
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in ours.items()} == {
        name: (tensor.shape, tensor.dtype) for name, tensor in theirs.items()
    }
    for name, tensor in ours.items():
        assert tensor.float().std().item() == pytest.approx(theirs[name].float().std().item(), rel=0.2)
    for file in ("config.json", "model.safetensors.index.json"):
        assert (tmp_path / "torch" / file).read_text() == (tmp_path / "numpy" / file).read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "torch").num_parameters() > 0


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    for seed in (3, 3, 4):
        write_sharded_checkpoint(tmp_path / str(len(list(tmp_path.iterdir()))), _config("float32"), seed)
    first, same, other = (file.read_bytes() for file in sorted(tmp_path.glob("*/model-00001.safetensors")))
    assert first == same != other


@pytest.mark.parametrize("ties_embeddings", [False, True])
def test_parameters_are_counted_as_transformers_counts_them(tmp_path: Path, ties_embeddings: bool) -> None:
    config = _config("float32", ties_embeddings=ties_embeddings)
    write_sharded_checkpoint(tmp_path, config, seed=3)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    matrices = sum(tensor.numel() for tensor in model.parameters() if tensor.dim() > 1)
    assert num_parameters(config) == matrices
