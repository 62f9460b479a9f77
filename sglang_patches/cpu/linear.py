"""A linear layer of two rows in the time of one.

Target: ``sglang.srt.layers.quantization.unquant.UnquantizedLinearMethod.apply``
Why: a decode step of one request with a second row (:mod:`sglang_patches.icarus.rows`), or of two requests, multiplies
    two rows by each weight. PyTorch's product of two rows reads the weights twice; that of two columns reads them once.
How: the rows as columns, for exactly two in float32; everything else goes upstream. A method patch: quantisations have
    subclasses of the class.
Remove when: PyTorch's product of few rows reads the weights once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sglang_patches.cpu.computation import multiply_two
from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from torch import Tensor


@wraps_upstream(
    "layers.quantization.unquant:UnquantizedLinearMethod.apply",
    "05d07c83c31bdaf8",
    "two rows would take twice the time of one",
)
def wrap_apply(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = layer.weight
        if x.dim() != 2 or len(x) != 2 or bias is not None or not x.dtype == weight.dtype == torch.float32:
            return original(self, layer, x, bias)
        return multiply_two(x, weight)

    return apply
