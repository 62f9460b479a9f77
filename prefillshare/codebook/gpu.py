"""Codebook weights on a GPU: two Triton kernels while rows are few, with expanded blocks when they are many.

Compared with the plain product in Triton's interpreter, and compiled for sm_90; not run on a GPU yet. So deployments on
GPUs take such modules only where `KERNEL_VARIABLE` says "triton".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from prefillshare.codebook.kernels.layout import BLOCK_OUTPUTS
from prefillshare.codebook.packed import fill_blocks, pack_codebooks, pack_codes
from prefillshare.codebook.reference import CodebookWeight

_MOST_ROWS_LOOKED_UP = 16
"""Not measured: a step of so many requests still reads less by codes than by an expanded weight."""
_PROGRAMS = 264
"""Two for each processor of an H100; a weight with few outputs shares out its groups as well."""
_BLOCKS_AT_ONCE = 16
"""4,096 outputs are expanded at a time: of a layer of an 8B model, a few hundred MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuWeight:
    """A weight in blocks of 256 outputs in their order; what is missing in the last block has the scale 0."""

    codes: Tensor
    """uint8 [groups, blocks, terms, 256]."""
    codebooks: Tensor
    """float32 [m, v, 256]: for each input of a segment, that number of all entries."""
    scales: Tensor
    """float16 [groups, blocks * 256]."""
    num_outputs: int
    """Rows of the weight."""


def pack_for_gpu(weight: CodebookWeight) -> GpuWeight:
    """Lay a weight out for the kernels, where it is."""
    return GpuWeight(
        codes=pack_codes(weight.codes, weight.shape, "floats"),
        codebooks=pack_codebooks(weight.codebooks),
        scales=fill_blocks(weight.scales.half()).T.contiguous(),
        num_outputs=weight.num_outputs,
    )


def multiply_on_gpu(rows: Tensor, weight: GpuWeight) -> Tensor:
    """Return rows [N, inputs] times the weight, [N, outputs], in the type of the rows."""
    few = rows.shape[0] <= _MOST_ROWS_LOOKED_UP
    product = _look_up(rows, weight) if few else _multiply_expanded(rows, weight)
    return product[:, : weight.num_outputs].to(rows.dtype)


def _look_up(rows: Tensor, weight: GpuWeight) -> Tensor:
    from prefillshare.codebook.kernels.gpu import multiply

    num_groups, num_blocks = weight.codes.shape[:2]
    num_parts = min(num_groups, max(1, _PROGRAMS // (num_blocks * max(1, rows.shape[0]))))
    return multiply(rows, weight.codes, weight.codebooks, weight.scales, num_parts)


def _multiply_expanded(rows: Tensor, weight: GpuWeight) -> Tensor:
    return torch.cat([F.linear(rows, part.to(rows.dtype)) for part in _expanded_parts(weight)], dim=1)


def _expanded_parts(weight: GpuWeight) -> Iterator[Tensor]:
    """Yield the weight in float32, [outputs, inputs], some blocks at a time."""
    num_codebooks = weight.codebooks.shape[0]
    entries = weight.codebooks.transpose(1, 2).contiguous()
    num_groups, num_blocks, num_terms, _ = weight.codes.shape
    scales = weight.scales.float().reshape(num_groups, num_blocks, 1, BLOCK_OUTPUTS, 1)
    for first in range(0, num_blocks, _BLOCKS_AT_ONCE):
        blocks = slice(first, first + _BLOCKS_AT_ONCE)
        codes = weight.codes[:, blocks].unflatten(2, (num_terms // num_codebooks, num_codebooks)).long()
        # Groups, blocks, segments, outputs of a block, inputs of a segment.
        found = sum((entries[k][codes[:, :, :, k]] for k in range(1, num_codebooks)), entries[0][codes[:, :, :, 0]])
        yield (found * scales[:, blocks]).permute(1, 3, 0, 2, 4).flatten(2).flatten(0, 1)
