"""The whole module that is quantised, in memory: for what needs its outputs, not only its weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from prefillshare.codebook.checkpoint import PARTS
from prefillshare.codebook.reference import CodebookWeight, dequantise
from prefillshare.quantize.source import WeightSource
from prefillshare.training.model import load_base

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class CodebookLinear(torch.nn.Module):
    """A linear layer whose codes are fixed and whose codebooks and scales are trained."""

    codes: torch.Tensor

    def __init__(self, weight: CodebookWeight, codebooks: torch.nn.Parameter, bias: torch.nn.Parameter | None) -> None:
        super().__init__()
        self.register_buffer("codes", weight.codes)
        self.codebooks, self.scales = codebooks, torch.nn.Parameter(weight.scales.float())
        self.bias = bias

    @property
    def stored(self) -> CodebookWeight:
        """The weight as it would be stored."""
        return CodebookWeight(codes=self.codes, codebooks=self.codebooks, scales=self.scales)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(rows, dequantise(self.stored, rows.dtype), self.bias)


def load_full(source: WeightSource, dtype: torch.dtype = torch.float32) -> "PreTrainedModel":
    """The module with full weights, its adapter added."""
    model = load_base(source.base, dtype)
    for layer in range(source.num_layers):
        for name in (name for names in source.linear_groups(layer) for name in names):
            model.get_submodule(name).weight.data = source.read(f"{name}.weight").to(dtype)
    return model


def load_trainable(source: WeightSource, directory: Path) -> "PreTrainedModel":
    """The quantised module in `directory`, made from `source`, with codebooks that can be trained.

    Layers that read the same input keep one set of codebooks. Only codebooks, scales and norms have gradients.
    """
    model: Any = load_base(directory, torch.float32).requires_grad_(False)
    for layer in range(source.num_layers):
        for names in source.linear_groups(layer):
            weights = [_read_weight(directory, name) for name in names]
            shared = torch.nn.Parameter(weights[0].codebooks.float())
            for name, weight in zip(names, weights, strict=True):
                model.set_submodule(name, CodebookLinear(weight, shared, model.get_submodule(name).bias))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_norm(name) or name.endswith((".codebooks", ".scales")))
    return model


def is_norm(name: str) -> bool:
    """Whether a parameter is that of a norm."""
    return "norm" in name.rpartition(".")[0].rpartition(".")[2]


def _read_weight(directory: Path, layer: str) -> CodebookWeight:
    module = WeightSource(directory)
    return CodebookWeight(**{part: module.read(f"{layer}.{part}") for part in PARTS})
