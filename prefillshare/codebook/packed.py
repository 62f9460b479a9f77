"""A codebook weight as the kernels read it: the only copy of the codes once a module is loaded."""

import os
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from prefillshare.codebook.kernels.layout import BLOCK_OUTPUTS, ENTRIES, KERNEL_VARIABLE, has_vbmi, output_order
from prefillshare.codebook.reference import CodebookWeight
from prefillshare.codebook.shape import CodebookShape
from prefillshare.errors import ModuleError

Kernel = Literal["vbmi", "floats"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedWeight:
    """A weight in blocks of 256 outputs; what is missing in the last block has the scale 0."""

    codes: Tensor
    """uint8 [groups, blocks, terms, 256]: read from front to back, once for all rows."""
    codebooks: Tensor
    """float32 [m, v, 256]: for each input of a segment, that number of all entries."""
    scales: Tensor
    """[groups, blocks * 256]: float16 for "vbmi", which reads it; float32 for "floats", whose compiler cannot."""
    num_outputs: int
    """Rows of the weight."""
    kernel: Kernel
    """Whose order of outputs the codes are in."""
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]
    """Codes, codebooks and scales as compiled loops take them, in the same memory; half numbers as uint16. Made once:
    a token of a small module is a hundred products."""

    @property
    def num_inputs(self) -> int:
        """Columns of the weight."""
        groups, _, terms, _ = self.codes.shape
        num_codebooks, segment, _ = self.codebooks.shape
        return groups * terms // num_codebooks * segment

    def places(self) -> Tensor:
        """int64 [256]: the output, within its block, of each place."""
        return _places(self.kernel)


def best_kernel() -> Kernel:
    """The faster kernel of those that this processor has the instructions for, or the one that the user chose.

    Raises: ModuleError when that is none, or this processor lacks its instructions.
    """
    chosen = os.environ.get(KERNEL_VARIABLE) or ("vbmi" if has_vbmi() else "floats")
    if chosen == "floats":
        return "floats"
    if chosen != "vbmi":
        raise ModuleError(f'{KERNEL_VARIABLE} is {chosen!r}: on a CPU it may be "vbmi" or "floats"')
    # numba would end the process.
    if not has_vbmi():
        raise ModuleError(f'{KERNEL_VARIABLE} is "vbmi" and this processor has no AVX-512 VBMI: unset it')
    return "vbmi"


def pack(weight: CodebookWeight, kernel: Kernel | None = None) -> PackedWeight:
    """Lay a weight out for a kernel, the best of this machine by default."""
    kernel = kernel or best_kernel()
    codes, codebooks = pack_codes(weight.codes, weight.shape, kernel), pack_codebooks(weight.codebooks)
    is_half = kernel == "vbmi"
    scales = fill_blocks(weight.scales.half() if is_half else weight.scales.float()).T.contiguous()
    halves = scales.numpy().view(np.uint16) if is_half else scales.numpy()
    return PackedWeight(
        codes=codes,
        codebooks=codebooks,
        scales=scales,
        num_outputs=weight.num_outputs,
        kernel=kernel,
        arrays=(codes.numpy(), codebooks.numpy(), halves),
    )


def pack_codes(codes: Tensor, shape: CodebookShape, kernel: Kernel) -> Tensor:
    """Return stored codes [outputs, inputs / v, m] as [groups, blocks, terms, 256]."""
    filled = fill_blocks(codes.reshape(codes.shape[0], -1))
    blocks = filled.reshape(-1, BLOCK_OUTPUTS, filled.shape[1] // shape.num_terms, shape.num_terms)
    return blocks[:, _places(kernel)].permute(2, 0, 3, 1).contiguous()


def pack_codebooks(codebooks: Tensor) -> Tensor:
    """Return codebooks [m, 2^b, v] as float32 [m, v, 256]; entries that no code names are zero."""
    num_codebooks, num_entries, segment = codebooks.shape
    packed = codebooks.new_zeros((num_codebooks, segment, ENTRIES), dtype=torch.float32)
    packed[:, :, :num_entries] = codebooks.float().transpose(1, 2)
    return packed


def _places(kernel: Kernel) -> Tensor:
    if kernel == "floats":
        return torch.arange(BLOCK_OUTPUTS)
    order = torch.tensor(output_order())
    return (torch.arange(0, BLOCK_OUTPUTS, len(order)).unsqueeze(1) + order).flatten()


def fill_blocks(rows: Tensor) -> Tensor:
    """Return rows [outputs, ...] with zeros up to the end of the last block."""
    missing = -rows.shape[0] % BLOCK_OUTPUTS
    return torch.cat([rows, rows.new_zeros((missing, rows.shape[1]))]) if missing else rows
