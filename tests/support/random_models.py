"""Tiny random models for tests: a Qwen3 checkpoint, LoRA adapters and a deployment file, in well under a second.

Written with numpy alone so that tests of configuration need no torch. The adapters are large on purpose: each one, and
the base, gives different text for nearly every prompt.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from prefillshare.modules.fingerprint import (
    chat_template_sha256,
    prefill_fingerprint,
    read_model_config,
    tokenizer_sha256,
)
from prefillshare.modules.manifest import ModuleManifest, Objective, write_manifest

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAX_VOCAB_SIZE = 512
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TARGET_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def make_base(
    directory: Path,
    *,
    seed: int = 0,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 16,
    max_positions: int = 4096,
) -> Path:
    """Write a random Qwen3 checkpoint (float32) with a byte-level BPE and a ChatML template; return `directory`."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    intermediate = 2 * hidden
    vocab_size = _write_tokenizer(directory, max_positions)
    config = {
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
        "rope_theta": 10000.0,
        "attention_bias": False,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    _write_json(directory / "config.json", config)
    _write_json(directory / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
    shapes = _linear_shapes(hidden, intermediate, heads, kv_heads, head_dim)
    save_file(
        _base_tensors(np.random.default_rng(seed), shapes, vocab_size, layers, hidden, head_dim),
        directory / "model.safetensors",
    )
    return directory


def make_adapter(
    directory: Path,
    base: Path,
    name: str,
    *,
    seed: int,
    rank: int = 8,
    scale: float = 0.5,
    objective: Objective = "cache-conditioned",
    target_modules: tuple[str, ...] = TARGET_MODULES,
    manifest: bool = True,
) -> Path:
    """Write a random PEFT LoRA adapter for `base`; return `directory`.

    Units: `scale` is the size of the update relative to the base weights.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = read_model_config(base)
    shapes = _linear_shapes(
        config["hidden_size"],
        config["intermediate_size"],
        config["num_attention_heads"],
        config["num_key_value_heads"],
        config["head_dim"],
    )
    rng = np.random.default_rng(seed)
    tensors = {}
    for layer in range(config["num_hidden_layers"]):
        for module, (out_size, in_size) in shapes.items():
            if module.rpartition(".")[2] in target_modules:
                prefix = f"base_model.model.model.layers.{layer}.{module}"
                tensors[f"{prefix}.lora_A.weight"] = _normal(rng, (rank, in_size), in_size**-0.5)
                tensors[f"{prefix}.lora_B.weight"] = _normal(rng, (out_size, rank), scale * rank**-0.5)
    save_file(tensors, directory / "adapter_model.safetensors")
    _write_json(directory / "adapter_config.json", _adapter_config(rank, target_modules))
    if manifest:
        write_manifest(directory, _manifest(base, name, objective, seed))
    return directory


def make_family(directory: Path, names: tuple[str, ...] = ("math", "tool", "code"), *, seed: int = 0) -> Path:
    """Write a base, one adapter per name and a deployment file below `directory`; return the deployment file."""
    directory = Path(directory)
    base = make_base(directory / "base", seed=seed)
    for number, name in enumerate(names, start=1):
        make_adapter(directory / name, base, name, seed=seed + number)
    return write_deployment(directory / "deployment.toml", names)


def write_deployment(file: Path, names: tuple[str, ...] = ("math", "tool", "code"), engine: str = "") -> Path:
    """Write a deployment file for modules in directories beside it; `engine` is added to its [engine] table."""
    modules = "".join(f'\n[[decode]]\nname = "{name}"\nkind = "lora"\npath = "{name}"\n' for name in names)
    text = (
        'name = "random-agents"\ntopology = "colocated"\n\n'
        '[prefill]\nname = "random-base"\npath = "base"\n'
        f'{modules}\n[engine]\ndtype = "float32"\n{engine}'
    )
    file.write_text(text, encoding="utf-8")
    return file


def _linear_shapes(
    hidden: int, intermediate: int, heads: int, kv_heads: int, head_dim: int
) -> dict[str, tuple[int, int]]:
    """Shapes: (out, in) of each linear layer of one block."""
    return {
        "self_attn.q_proj": (heads * head_dim, hidden),
        "self_attn.k_proj": (kv_heads * head_dim, hidden),
        "self_attn.v_proj": (kv_heads * head_dim, hidden),
        "self_attn.o_proj": (hidden, heads * head_dim),
        "mlp.gate_proj": (intermediate, hidden),
        "mlp.up_proj": (intermediate, hidden),
        "mlp.down_proj": (hidden, intermediate),
    }


def _base_tensors(
    rng: np.random.Generator,
    shapes: dict[str, tuple[int, int]],
    vocab_size: int,
    layers: int,
    hidden: int,
    head_dim: int,
) -> dict[str, np.ndarray]:
    tensors = {
        "model.embed_tokens.weight": _normal(rng, (vocab_size, hidden), 1.0),
        "model.norm.weight": np.ones(hidden, np.float32),
        "lm_head.weight": _normal(rng, (vocab_size, hidden), 2 * hidden**-0.5),
    }
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        for module, (out_size, in_size) in shapes.items():
            tensors[f"{prefix}.{module}.weight"] = _normal(rng, (out_size, in_size), in_size**-0.5)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(hidden, np.float32)
        for norm in ("self_attn.q_norm", "self_attn.k_norm"):
            tensors[f"{prefix}.{norm}.weight"] = np.ones(head_dim, np.float32)
    return tensors


def _normal(rng: np.random.Generator, shape: tuple[int, ...], std: float) -> np.ndarray:
    return (std * rng.standard_normal(shape)).astype(np.float32)


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
        prefill_fingerprint=prefill_fingerprint(base, use_cache=False),
        tokenizer_sha256=tokenizer_sha256(base),
        chat_template_sha256=chat_template_sha256(base),
        seed=seed,
    )


def _write_tokenizer(directory: Path, max_positions: int) -> int:
    """Write the tokenizer's files; return the size of its vocabulary."""
    (directory / "tokenizer.json").write_text(_tokenizer_json(), encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_positions,
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
    }
    _write_json(directory / "tokenizer_config.json", settings)
    return Tokenizer.from_str(_tokenizer_json()).get_vocab_size()


@cache
def _tokenizer_json() -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = "system user assistant question answer tool code return number total each shop apple train price"
    corpus = [" ".join(words.split()[i:] + words.split()[:i]) for i in range(len(words.split()))]
    tokenizer.train_from_iterator(corpus + ["def add(a, b):\n    return a + b\n"] * 4, trainer)
    return tokenizer.to_str()


def _write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
