"""Checkpoints with random weights, made on a GPU: seconds where numpy takes minutes.

A process of its own, so that the GPU's memory is given back: `python -m prefillshare.modules.gpu_weights DIRECTORY SEED
[DEVICE] < config.json`. The same tensors as `random_weights` writes, with other values.
"""

import json
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from prefillshare.modules.random_weights import Recipe, base_recipe, shard_name, write_configs

_NUM_WRITERS = 4
"""Files written at the same time; as many parts of the checkpoint are in memory."""


def write_checkpoint(directory: Path, config: Mapping[str, Any], seed: int, device: str) -> None:
    """Write config.json and random weights of its dtype, a file per layer."""
    directory.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator(device).manual_seed(seed)
    dtype = getattr(torch, config["torch_dtype"])
    weight_map: dict[str, str] = {}
    writes: list[Future[None]] = []
    num_bytes = 0
    with ThreadPoolExecutor(_NUM_WRITERS) as pool:
        for number, recipe in enumerate(base_recipe(config)):
            tensors = _tensors(recipe, generator, dtype)
            if number >= _NUM_WRITERS:
                writes[number - _NUM_WRITERS].result()
            writes.append(pool.submit(save_file, tensors, directory / shard_name(number), {"format": "pt"}))
            weight_map.update(dict.fromkeys(tensors, shard_name(number)))
            num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        for write in writes:
            write.result()
    write_configs(directory, config, weight_map, num_bytes)


def _tensors(recipe: Recipe, generator: torch.Generator, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {
        name: torch.ones(shape, dtype=dtype)
        if std is None
        else (std * torch.randn(shape, generator=generator, device=generator.device)).to(dtype).cpu()
        for name, (shape, std) in recipe.items()
    }


def main() -> None:
    """Write what standard input describes."""
    directory, seed, *rest = sys.argv[1:]
    write_checkpoint(Path(directory), json.load(sys.stdin), int(seed), rest[0] if rest else "cuda")


if __name__ == "__main__":
    main()
