"""Linear layers by oneDNN, over weights that lie as it reads them best.

Target: ``sglang.srt.layers.quantization.unquant.UnquantizedLinearMethod``, loading and ``apply``
Why: PyTorch multiplies float32 by its BLAS, which reads the weights more than once for two rows and more (a decode
    step of one request with a second row, :mod:`sglang_patches.icarus.rows`, or of several requests), and is far from
    what a processor with AVX-512 can do where there are many rows. oneDNN, which PyTorch has for other types, reads
    them once for up to 16 rows and is twice as fast on long prompts.
How: after loading, a float32 weight lies input by input instead of output by output: its shape stays, so that whoever
    reads or loads it sees no difference, and it takes no more memory. Every product with it is then oneDNN's. Other
    types, and builds of PyTorch without oneDNN, go upstream. Method patches: quantisations have subclasses.
Remove when: PyTorch's float32 products are oneDNN's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.cpu.computation import is_for_onednn, lay_by_inputs, multiply
from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from torch import Tensor


@wraps_upstream(
    "layers.quantization.unquant:UnquantizedLinearMethod.process_weights_after_loading",
    "3655ff72b02a1606",
    "weights would lie as only the slower library reads them well",
)
def wrap_process_weights(original: Callable[..., None]) -> Callable[..., None]:
    def process_weights_after_loading(self: Any, layer: Any) -> None:
        original(self, layer)
        if layer.weight.dim() == 2 and is_for_onednn(layer.weight):
            layer.weight.data = lay_by_inputs(layer.weight.data)

    return process_weights_after_loading


@wraps_upstream(
    "layers.quantization.unquant:UnquantizedLinearMethod.apply",
    "05d07c83c31bdaf8",
    "few rows would take several times as long as one",
)
def wrap_apply(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def apply(self: Any, layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        weight = layer.weight
        if x.dim() != 2 or weight.dim() != 2 or x.dtype != weight.dtype or not is_for_onednn(weight):
            return original(self, layer, x, bias)
        return multiply(x, weight, bias)

    return apply
