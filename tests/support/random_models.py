"""Tiny random models for tests: a Qwen3 checkpoint, LoRA adapters and a deployment file, in well under a second.

Written with numpy alone so that tests of configuration need no torch. The adapters are large on purpose: each one, and
the base, gives different text for nearly every prompt.
"""

from functools import cache
from pathlib import Path

from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from prefillshare.modules.manifest import Objective
from prefillshare.modules.random_weights import (
    TARGET_MODULES,
    base_tensors,
    qwen3_config,
    write_json,
    write_random_adapter,
)

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MAX_VOCAB_SIZE = 512
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


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
    config = qwen3_config(
        vocab_size=_write_tokenizer(directory, max_positions),
        layers=layers,
        hidden=hidden,
        intermediate=2 * hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        max_positions=max_positions,
    )
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", {"eos_token_id": 2, "pad_token_id": 0})
    tensors = {name: tensor for shard in base_tensors(config, seed) for name, tensor in shard.items()}
    save_file(tensors, directory / "model.safetensors")
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
    write_random_adapter(
        Path(directory),
        base,
        name,
        seed=seed,
        rank=rank,
        scale=scale,
        objective=objective,
        target_modules=target_modules,
        manifest=manifest,
    )
    return Path(directory)


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
    write_json(directory / "tokenizer_config.json", settings)
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
