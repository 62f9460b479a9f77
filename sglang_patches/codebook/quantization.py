"""SGLang's registry of quantisations knows codebook weights.

Target: ``sglang.srt.layers.quantization.QUANTIZATION_METHODS``
Why: a module whose config.json names them would be refused, or loaded without its linear layers.
How: entered in the registry; upstream finds the entry by ``quant_method`` and asks it for each layer. Linear layers get
    :class:`CodebookLinearMethod`, everything else upstream's own.
Upstream: sglang/srt/layers/quantization/__init__.py and base_config.py at 0.5.17.
Remove when: upstream multiplies codebook weights.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import torch
from sglang.srt.layers.linear import LinearBase
from sglang.srt.layers.quantization.base_config import LinearMethodBase, QuantizationConfig
from sglang.srt.utils import set_weight_attrs
from torch import Tensor, nn

from prefillshare.codebook.gpu import GpuWeight, multiply_on_gpu, pack_for_gpu
from prefillshare.codebook.packed import Kernel, PackedWeight, best_kernel, pack
from prefillshare.codebook.product import multiply
from prefillshare.codebook.reference import CodebookWeight
from prefillshare.codebook.section import QUANT_METHOD, shape_of_section
from prefillshare.codebook.shape import CodebookShape
from sglang_patches.declarations import registers

_logger = logging.getLogger(__name__)


@registers(
    "layers.quantization:QUANTIZATION_METHODS",
    "prefillshare-codebook",
    by="get_quantization_config",
    fingerprint="4dcd7479ce61f2c0",
    why="modules of codebook weights would be refused",
)
class CodebookConfig(QuantizationConfig):
    """What ``quantization_config`` says of codebook weights."""

    def __init__(self, shape: CodebookShape) -> None:
        super().__init__()
        self.shape = shape
        self._kernel: Kernel | Literal["triton"] | None = None
        """Known with the first weight, which is where the others are."""

    def pack(self, weight: CodebookWeight) -> PackedWeight | GpuWeight:
        """Lay a weight out for the best kernel of where it is, which the log names once."""
        if self._kernel is None:
            self._kernel = best_kernel() if weight.codes.device.type == "cpu" else "triton"
            _logger.info("codebook weights: %s bits, kernel %s", self.shape.bits_per_weight, self._kernel)
        return pack_for_gpu(weight) if self._kernel == "triton" else pack(weight, self._kernel)

    def get_name(self) -> str:
        return QUANT_METHOD

    def get_supported_act_dtypes(self) -> list[torch.dtype]:
        return [torch.float32, torch.bfloat16, torch.float16]

    @classmethod
    def get_min_capability(cls) -> int:
        return 0

    @staticmethod
    def get_config_filenames() -> list[str]:
        return []

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> CodebookConfig:
        return cls(shape_of_section(config))

    def get_quant_method(self, layer: nn.Module, prefix: str) -> LinearMethodBase | None:
        return CodebookLinearMethod(self) if isinstance(layer, LinearBase) else None

    def get_scaled_act_names(self) -> list[str]:
        return []


class CodebookLinearMethod(LinearMethodBase):
    """A linear layer of codebook weights; what is merged into one layer has the same codebooks."""

    def __init__(self, config: CodebookConfig) -> None:
        self.config = config

    def create_weights(
        self,
        layer: nn.Module,
        input_size_per_partition: int,
        output_partition_sizes: list[int],
        input_size: int,
        output_size: int,
        params_dtype: torch.dtype,
        **attributes: Any,
    ) -> None:
        shape, num_outputs = self.config.shape, sum(output_partition_sizes)
        shape.check_fits(input_size_per_partition, f"a part of a layer of {input_size} x {output_size}")
        num_segments = input_size_per_partition // shape.segment
        num_codebooks = shape.num_codebooks * len(output_partition_sizes)
        by_row: dict[str, Any] = {"output_dim": 0, "input_dim": 1}
        parts: dict[str, tuple[Tensor, dict[str, Any]]] = {
            "codes": (torch.empty(num_outputs, num_segments, shape.num_codebooks, dtype=torch.uint8), by_row),
            "scales": (torch.empty(num_outputs, input_size_per_partition // shape.group, dtype=torch.float16), by_row),
            # Those of q, k and v, or of gate and up, are put one behind the other.
            "codebooks": (
                torch.empty(num_codebooks, shape.num_entries, shape.segment, dtype=torch.float16),
                {"is_metadata": True},
            ),
        }
        for name, (tensor, places) in parts.items():
            parameter = nn.Parameter(tensor, requires_grad=False)
            set_weight_attrs(parameter, {**places, **attributes})
            layer.register_parameter(name, parameter)

    def process_weights_after_loading(self, layer: nn.Module) -> None:
        codebooks = layer.codebooks.data.split(self.config.shape.num_codebooks)
        assert all(torch.equal(codebooks[0], other) for other in codebooks), "merged layers have different codebooks"
        weight = CodebookWeight(codes=layer.codes.data, codebooks=codebooks[0], scales=layer.scales.data)
        layer.packed = self.config.pack(weight)
        # The codes lie as the kernel reads them; nobody reads them as they were loaded.
        for name in ("codes", "scales", "codebooks"):
            delattr(layer, name)

    def apply(self, layer: nn.Module, x: Tensor, bias: Tensor | None = None) -> Tensor:
        packed: PackedWeight | GpuWeight = layer.packed
        rows = x.reshape(-1, x.shape[-1])
        product = multiply_on_gpu(rows, packed) if isinstance(packed, GpuWeight) else multiply(rows, packed)
        product = product.reshape(*x.shape[:-1], packed.num_outputs)
        return product if bias is None else product + bias


RELIED_ON = {
    "layers.linear:LinearBase": ("2504df0cc231c516", "which layers ask for a method, and how it is called"),
    "layers.linear:QKVParallelLinear.weight_loader": ("b6c0d7f005b6c941", "where q, k and v are put"),
    "layers.linear:MergedColumnParallelLinear.weight_loader": ("8ce70f0343fe0b06", "where gate and up are put"),
    "layers.linear:RowParallelLinear.weight_loader": ("ba30d460f0faaa7e", "how inputs are cut"),
}
