"""Codebook weights in plain torch: what every kernel is compared with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from prefillshare.codebook.shape import CodebookShape


@dataclass(frozen=True, slots=True, kw_only=True)
class CodebookWeight:
    """A weight as it is stored."""

    codes: Tensor
    """uint8 [outputs, inputs / v, m]."""
    codebooks: Tensor
    """float16 (or a float that is being tuned) [m, 2^b, v]."""
    scales: Tensor
    """float16 (or a float that is being tuned) [outputs, inputs / g]."""

    @property
    def shape(self) -> CodebookShape:
        """How its rows are cut up."""
        num_codebooks, num_entries, segment = self.codebooks.shape
        return CodebookShape(
            num_codebooks=num_codebooks,
            code_bits=num_entries.bit_length() - 1,
            segment=segment,
            group=self.num_inputs // self.scales.shape[1],
        )

    @property
    def num_outputs(self) -> int:
        """Rows."""
        return self.codes.shape[0]

    @property
    def num_inputs(self) -> int:
        """Columns."""
        return self.codes.shape[1] * self.codebooks.shape[2]


def dequantise(weight: CodebookWeight, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return the whole matrix [outputs, inputs]; codebooks and scales may have gradients."""
    segments = torch.stack(
        [weight.codebooks[i].float()[weight.codes[:, :, i].int()] for i in range(weight.codes.shape[2])]
    ).sum(0)
    groups = segments.reshape(weight.num_outputs, weight.scales.shape[1], -1)
    return (groups * weight.scales.float().unsqueeze(-1)).reshape(weight.num_outputs, -1).to(dtype)


def multiply_by_psumbook(rows: Tensor, weight: CodebookWeight) -> Tensor:
    """Return rows [N, inputs] times the weight without expanding it: build the Psumbook, gather, add, scale."""
    num_rows, shape = rows.shape[0], weight.shape
    segments = rows.float().reshape(num_rows, -1, shape.segment)
    psumbook = torch.einsum("nsv,mev->nsme", segments, weight.codebooks.float())
    # [outputs, segments, m] names an entry of each segment's and codebook's products.
    found = torch.gather(
        psumbook.permute(1, 2, 0, 3), 3, weight.codes.permute(1, 2, 0).long().unsqueeze(2).expand(-1, -1, num_rows, -1)
    )
    per_group = found.sum(1).reshape(weight.scales.shape[1], -1, num_rows, weight.num_outputs).sum(1)
    return torch.einsum("gno,og->no", per_group, weight.scales.float())
