"""How a module of codebook weights lies on disk: a checkpoint in which linear layers have three tensors for one.

    config.json     "quantization_config": {"quant_method": "prefillshare-codebook", "format": 1, "m": 1, "b": 8, ...}
    *.safetensors   <layer>.codes      uint8   [outputs, inputs / v, m]
                    <layer>.codebooks  float16 [m, 2^b, v]
                    <layer>.scales     float16 [outputs, inputs / g]

Layers that read the same input (q, k and v; gate and up) have equal codebooks, so that an engine builds one Psumbook
for them. Embeddings, norms, biases and the head are as in any checkpoint. Everything is read tensor by tensor.
"""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from prefillshare.codebook.reference import CodebookWeight, dequantise

_PARTS = ("codes", "codebooks", "scales")


def tensors_of(name: str, weight: CodebookWeight) -> dict[str, Tensor]:
    """Return the tensors of one linear layer as they are stored."""
    return {
        f"{name}.codes": weight.codes.contiguous(),
        f"{name}.codebooks": weight.codebooks.half().contiguous(),
        f"{name}.scales": weight.scales.half().contiguous(),
    }


def plain_tensors(directory: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of a codebook checkpoint as an ordinary one would have it: the dequantised reference."""
    for file in sorted(directory.glob("*.safetensors")):
        yield from _plain_tensors_of_file(file, dtype)


def _plain_tensors_of_file(file: Path, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 - it is no mapping
            layer, _, part = name.rpartition(".")
            if part not in _PARTS:
                yield name, tensors.get_tensor(name).to(dtype)
            elif part == "codes":
                weight = CodebookWeight(**{part: tensors.get_tensor(f"{layer}.{part}") for part in _PARTS})
                yield f"{layer}.weight", dequantise(weight, dtype)
