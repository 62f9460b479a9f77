"""A base of half a billion random weights, and decode modules over it: full ones, and of random codes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

from prefillshare.bench.families.once import write_once
from prefillshare.codebook.checkpoint import tensors_of
from prefillshare.codebook.reference import CodebookWeight
from prefillshare.codebook.section import quantization_section
from prefillshare.codebook.shape import CodebookShape
from prefillshare.modules.fingerprint import (
    chat_template_sha256,
    prefill_fingerprint,
    read_model_config,
    tokenizer_sha256,
)
from prefillshare.modules.manifest import ModuleManifest, write_manifest
from prefillshare.modules.merge import copy_text_files
from prefillshare.modules.random_weights import qwen3_config, write_json, write_sharded_checkpoint
from prefillshare.places import cache_directory
from prefillshare.quantize.layers import write_index
from prefillshare.quantize.source import WeightSource
from prefillshare.serving.embedded import embedded_deployment

NUM_LAYERS = 28
_SEED = 16


def make_base(num_layers: int) -> Path:
    """Qwen3 0.6B's shapes with a vocabulary of 32,000: 0.47 billion weights with 28 layers, in bfloat16."""
    config = qwen3_config(
        vocab_size=32000,
        layers=num_layers,
        hidden=1024,
        intermediate=3072,
        heads=16,
        kv_heads=8,
        head_dim=128,
        max_positions=8192,
        dtype="bfloat16",
        ties_embeddings=True,
    )

    def write(folder: Path) -> None:
        write_sharded_checkpoint(folder, config, _SEED)
        # Prompts are token ids; the tiny family's tokenizer has some of them.
        copy_text_files(embedded_deployment().parent / "tiny" / "base", folder)

    return _write_once(f"base-{num_layers}", write)


def make_full(base: Path, num_layers: int) -> Path:
    """A decode module with the base's weights, in the same files."""

    def write(folder: Path) -> None:
        for file in base.iterdir():
            os.link(file, folder / file.name)
        write_manifest(folder, _manifest(base))

    return _write_once(f"full-{num_layers}", write)


def make_coded(base: Path, num_layers: int) -> Path:
    """A decode module of random codes, whose weights have the variance of the base's."""
    shape, source = CodebookShape(), WeightSource(base)

    def write(folder: Path) -> None:
        torch.manual_seed(_SEED)
        for layer in range(num_layers):
            tensors = {name: source.read(name).clone() for name in source.other_names(layer)}
            for group in source.linear_groups(layer):
                codebooks = torch.randn(shape.num_codebooks, shape.num_entries, shape.segment).half()
                for name in group:
                    tensors |= tensors_of(name, _random_weight(source.size(f"{name}.weight"), codebooks, shape))
            save_file(tensors, folder / f"layer-{layer:05}.safetensors", {"format": "pt"})
        others = {name: source.read(name).clone() for name in source.other_names(None)}
        save_file(others, folder / "others.safetensors", {"format": "pt"})
        config = {**read_model_config(base), "quantization_config": quantization_section(shape)}
        write_json(folder / "config.json", config)
        shutil.copyfile(base / "generation_config.json", folder / "generation_config.json")
        copy_text_files(base, folder)
        write_index(folder)
        write_manifest(folder, _manifest(base))

    return _write_once(f"coded-{num_layers}", write)


def _random_weight(size: tuple[int, ...], codebooks: torch.Tensor, shape: CodebookShape) -> CodebookWeight:
    num_outputs, num_inputs = size
    segments = (num_outputs, num_inputs // shape.segment, shape.num_codebooks)
    return CodebookWeight(
        codes=torch.randint(shape.num_entries, segments, dtype=torch.uint8),
        codebooks=codebooks.clone(),
        scales=torch.full((num_outputs, num_inputs // shape.group), num_inputs**-0.5).half(),
    )


def _manifest(base: Path) -> ModuleManifest:
    return ModuleManifest(
        name="random",
        kind="full",
        objective="cache-conditioned",
        prefill_fingerprint=prefill_fingerprint(base),
        tokenizer_sha256=tokenizer_sha256(base),
        chat_template_sha256=chat_template_sha256(base),
    )


def _write_once(name: str, write: Callable[[Path], None]) -> Path:
    return write_once(cache_directory() / "bench" / "codebook" / name, f"making {name}", print, write)
