"""Modules with random weights: Qwen3 checkpoints and LoRA adapters of any size, for measurements and tests.

Written with numpy alone, layer by layer; `gpu_weights` makes large ones in a fraction of the time.
Random text comes out, at the speed of real weights.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from prefillshare.modules.fingerprint import (
    chat_template_sha256,
    prefill_fingerprint,
    read_model_config,
    tokenizer_sha256,
)
from prefillshare.modules.manifest import ModuleManifest, Objective, rule_of, write_manifest

TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_INDEX_NAME = "model.safetensors.index.json"

Tensors = dict[str, np.ndarray]
Recipe = dict[str, tuple[tuple[int, ...], float | None]]
"""Shape of each tensor, and the standard deviation of its values; None for a tensor of ones."""


def qwen3_config(
    *,
    vocab_size: int,
    layers: int,
    hidden: int,
    intermediate: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    max_positions: int,
    dtype: str = "float32",
    rope_theta: float = 10000.0,
    ties_embeddings: bool = False,
) -> dict[str, Any]:
    """config.json of a Qwen3 model whose end token is 2 and whose padding is 0."""
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": vocab_size,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": max_positions,
        "rms_norm_eps": 1e-6,
        "rope_theta": rope_theta,
        "attention_bias": False,
        "tie_word_embeddings": ties_embeddings,
        "torch_dtype": dtype,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def num_parameters(config: Mapping[str, Any]) -> int:
    """Parameters of the checkpoint, norms left out."""
    linear = sum(out_size * in_size for out_size, in_size in _linear_shapes(config).values())
    embeddings = config["vocab_size"] * config["hidden_size"] * (1 if config["tie_word_embeddings"] else 2)
    return int(config["num_hidden_layers"] * linear + embeddings)


def base_recipe(config: Mapping[str, Any]) -> Iterator[Recipe]:
    """What a checkpoint is made of: first what is outside of the layers, then layer by layer."""
    vocab_size, hidden = config["vocab_size"], config["hidden_size"]
    outer: Recipe = {
        "model.embed_tokens.weight": ((vocab_size, hidden), 1.0),
        "model.norm.weight": ((hidden,), None),
    }
    if not config["tie_word_embeddings"]:
        outer["lm_head.weight"] = ((vocab_size, hidden), 2 * hidden**-0.5)
    yield outer
    for layer in range(config["num_hidden_layers"]):
        yield _layer_recipe(config, f"model.layers.{layer}")


def base_tensors(config: Mapping[str, Any], seed: int) -> Iterator[Tensors]:
    """Random float32 weights of a checkpoint, in the parts of `base_recipe`."""
    rng = np.random.default_rng(seed)
    for recipe in base_recipe(config):
        yield {
            name: np.ones(shape, np.float32) if std is None else _normal(rng, shape, std)
            for name, (shape, std) in recipe.items()
        }


def write_sharded_checkpoint(directory: Path, config: Mapping[str, Any], seed: int) -> None:
    """Write config.json and random weights of its dtype (float32 or bfloat16), a file per layer."""
    directory.mkdir(parents=True, exist_ok=True)
    weight_map, total = {}, 0
    for number, tensors in enumerate(base_tensors(config, seed)):
        file = shard_name(number)
        total += _write_shard(directory / file, tensors, config["torch_dtype"])
        weight_map.update(dict.fromkeys(tensors, file))
    write_configs(directory, config, weight_map, total)


def shard_name(number: int) -> str:
    """File of one part of a checkpoint."""
    return f"model-{number:05d}.safetensors"


def write_configs(directory: Path, config: Mapping[str, Any], weight_map: Mapping[str, str], num_bytes: int) -> None:
    """Write what makes a checkpoint out of shards."""
    write_json(directory / _INDEX_NAME, {"metadata": {"total_size": num_bytes}, "weight_map": weight_map})
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})


def write_random_adapter(
    directory: Path,
    base: Path,
    name: str,
    *,
    seed: int,
    rank: int,
    scale: float,
    objective: Objective = "cache-conditioned",
    target_modules: tuple[str, ...] = TARGET_MODULES,
    zero_modules: tuple[str, ...] = (),
    manifest: bool = True,
) -> None:
    """Write a random LoRA adapter for `base`, with a manifest that fits it.

    Layers called as in `zero_modules` get matrices that change nothing.
    Units: `scale` is the size of the update relative to the base weights.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tensors = _adapter_tensors(read_model_config(base), np.random.default_rng(seed), rank, scale, target_modules)
    for key, tensor in tensors.items():
        if key.split(".")[-3] in zero_modules and "lora_B" in key:
            tensor[:] = 0
    save_file(tensors, directory / "adapter_model.safetensors")
    write_json(directory / "adapter_config.json", _adapter_config(rank, target_modules))
    if manifest:
        write_manifest(directory, _manifest(base, name, objective, seed))


def write_json(file: Path, content: object) -> None:
    """Write `content` as JSON for people to read."""
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _adapter_tensors(
    config: Mapping[str, Any], rng: np.random.Generator, rank: int, scale: float, target_modules: tuple[str, ...]
) -> Tensors:
    tensors: Tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (out_size, in_size) in _linear_shapes(config).items():
            if module.rpartition(".")[2] in target_modules:
                prefix = f"base_model.model.model.layers.{layer}.{module}"
                tensors[f"{prefix}.lora_A.weight"] = _normal(rng, (rank, in_size), in_size**-0.5)
                tensors[f"{prefix}.lora_B.weight"] = _normal(rng, (out_size, rank), scale * rank**-0.5)
    return tensors


def _layer_recipe(config: Mapping[str, Any], prefix: str) -> Recipe:
    recipe: Recipe = {
        f"{prefix}.{module}.weight": ((out_size, in_size), in_size**-0.5)
        for module, (out_size, in_size) in _linear_shapes(config).items()
    }
    for norm in ("input_layernorm", "post_attention_layernorm"):
        recipe[f"{prefix}.{norm}.weight"] = ((config["hidden_size"],), None)
    for norm in ("self_attn.q_norm", "self_attn.k_norm"):
        recipe[f"{prefix}.{norm}.weight"] = ((config["head_dim"],), None)
    return recipe


def _linear_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Shapes: (out, in) of each linear layer of one block."""
    hidden, intermediate = config["hidden_size"], config["intermediate_size"]
    query = config["num_attention_heads"] * config["head_dim"]
    key = config["num_key_value_heads"] * config["head_dim"]
    return {
        "self_attn.q_proj": (query, hidden),
        "self_attn.k_proj": (key, hidden),
        "self_attn.v_proj": (key, hidden),
        "self_attn.o_proj": (hidden, query),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }


def _normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    return (std * rng.standard_normal(shape)).astype(np.float32)


def _write_shard(file: Path, tensors: Tensors, dtype: str) -> int:
    """Write one safetensors file; return the size of its tensors in bytes.

    Written here since numpy has no bfloat16: a length, a header in JSON, then the tensors one after the other.
    """
    header: dict[str, dict[str, Any]] = {}
    end, name_of_dtype = 0, {"float32": "F32", "bfloat16": "BF16"}[dtype]
    data = {name: _bytes(tensor, dtype) for name, tensor in tensors.items()}
    for name, raw in data.items():
        shape = list(tensors[name].shape)
        header[name] = {"dtype": name_of_dtype, "shape": shape, "data_offsets": [end, end + len(raw)]}
        end += len(raw)
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.writelines(data.values())
    return end


def _bytes(tensor: np.ndarray, dtype: str) -> bytes:
    if dtype == "float32":
        return tensor.tobytes()
    # bfloat16 is the upper half of a float32.
    return (np.ascontiguousarray(tensor).view(np.uint32) >> 16).astype(np.uint16).tobytes()


def _adapter_config(rank: int, target_modules: tuple[str, ...]) -> dict[str, object]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "prefillshare/random-base",
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_dora": False,
        "use_rslora": False,
        "modules_to_save": None,
        "target_modules": list(target_modules),
        "inference_mode": True,
    }


def _manifest(base: Path, name: str, objective: Objective, seed: int) -> ModuleManifest:
    return ModuleManifest(
        name=name,
        kind="lora",
        objective=objective,
        kv_rule=rule_of(objective),
        prefill_fingerprint=prefill_fingerprint(base),
        tokenizer_sha256=tokenizer_sha256(base),
        chat_template_sha256=chat_template_sha256(base),
        seed=seed,
    )
