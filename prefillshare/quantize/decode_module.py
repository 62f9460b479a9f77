"""Whole modules in memory: for what needs their outputs, not only their weights.

Weights that only are read stay in the files: pages come from the page cache and go back to it, so that a base larger
than what is free is slow, and not impossible. What is trained is a few per cent of the weights.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from prefillshare.codebook.checkpoint import PARTS
from prefillshare.codebook.reference import CodebookWeight, dequantise
from prefillshare.errors import ModuleError
from prefillshare.modules.fingerprint import weight_files
from prefillshare.quantize.source import WeightSource
from prefillshare.training.attention import use_attention
from prefillshare.training.model import load_adapter

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
        if not torch.is_grad_enabled():
            return self._multiply(rows, self.codebooks, self.scales)
        # Expanded again in the backward pass: kept, the expanded weights of all layers would be the largest thing here.
        product: torch.Tensor = checkpoint(self._multiply, rows, self.codebooks, self.scales, use_reentrant=False)
        return product

    def _multiply(self, rows: torch.Tensor, codebooks: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        weight = CodebookWeight(codes=self.codes, codebooks=codebooks, scales=scales)
        return torch.nn.functional.linear(rows, dequantise(weight, rows.dtype), self.bias)


def map_model(directory: Path) -> "PreTrainedModel":
    """A model in the type that it is stored in, its weights in the mapped files; not to be trained."""
    model = _empty_model(directory)
    for file in weight_files(directory):
        model.load_state_dict(load_file(file), strict=False, assign=True)
    return _complete(model, directory)


def map_full(source: WeightSource) -> "PreTrainedModel":
    """The module with full weights, or its base with the adapter on."""
    model: Any = map_model(source.base)
    return model if source.adapter is None else load_adapter(model, source.adapter).eval()


def load_trainable(source: WeightSource, directory: Path) -> "PreTrainedModel":
    """The quantised module in `directory`, made from `source`, in float32, with codebooks that can be trained.

    Layers that read the same input keep one set of codebooks. Only codebooks, scales and norms have gradients.
    """
    module, model = WeightSource(directory), _empty_model(directory)
    others = {name: module.read(name).float() for name in _other_names(source)}
    for layer in range(source.num_layers):
        set_coded_layers(model, module, source.linear_groups(layer), others)
    model.load_state_dict(others, strict=False, assign=True)
    return only_trained(_complete(model, directory))


def set_coded_layers(
    model: torch.nn.Module,
    module: WeightSource,
    groups: list[list[str]],
    others: Mapping[str, torch.Tensor],
    place: Callable[[str], str] = str,
) -> None:
    """Put linear layers of codebooks into a model, each where `place` of its name says.

    Those of a group have one set of codebooks; `others` has their biases, by the place.
    """
    for names in groups:
        weights = [_read_weight(module, name) for name in names]
        shared = torch.nn.Parameter(weights[0].codebooks.float())
        for name, weight in zip(names, weights, strict=True):
            bias = others.get(f"{place(name)}.bias")
            kept = None if bias is None else torch.nn.Parameter(bias)
            model.set_submodule(place(name), CodebookLinear(weight, shared, kept))


def only_trained(model: Any) -> Any:
    """The model, with gradients for codebooks, scales and norms alone."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_trained(name))
    return model


def check_tensors(source: WeightSource) -> None:
    """Refuse a checkpoint whose tensors are not those that its config.json says.

    Raises: ModuleError.
    """
    model, names = _empty_model(source.base), {*source.names()}
    model.tie_weights()
    for name, parameter in model.named_parameters():
        if name not in names:
            raise _lacks(source.base, name)
        if source.size(name) != tuple(parameter.shape):
            found, wanted = ("x".join(map(str, size)) for size in (source.size(name), parameter.shape))
            raise ModuleError(
                f"{source.base} has {name} of size {found} and its config.json says {wanted}: download or build the "
                "module again"
            )


def is_trained(name: str) -> bool:
    """Whether a parameter is trained: codebooks, scales and norms are."""
    return name.endswith((".codebooks", ".scales")) or "norm" in name.rpartition(".")[0].rpartition(".")[2]


def _empty_model(directory: Path) -> Any:
    """The model without storage for its weights, with the buffers that it computes itself."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(directory)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with init_empty_weights(include_buffers=False):
        return AutoModelForCausalLM.from_config(config, dtype=config.dtype, attn_implementation="sdpa")


def _complete(model: Any, directory: Path) -> "PreTrainedModel":
    model.tie_weights()
    if missing := [name for name, parameter in model.named_parameters() if parameter.is_meta]:
        raise _lacks(directory, missing[0])
    use_attention(model)
    ready: PreTrainedModel = model.requires_grad_(False).eval()
    return ready


def _lacks(directory: Path, name: str) -> ModuleError:
    return ModuleError(f"{directory} has no tensor {name}: download or build the module again")


def _other_names(source: WeightSource) -> Iterator[str]:
    yield from source.other_names(None)
    for layer in range(source.num_layers):
        yield from source.other_names(layer)


def _read_weight(module: WeightSource, layer: str) -> CodebookWeight:
    return CodebookWeight(**{part: module.read(f"{layer}.{part}") for part in PARTS})
