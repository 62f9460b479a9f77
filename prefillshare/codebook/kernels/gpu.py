"""Products with codebook weights on a GPU: one Triton kernel builds the Psumbook, one reads it code by code.

    build_products   a program for each term and row       products [N, terms of the row, 256], read back from the cache
    add_products     a program for each block of 256 outputs, part of the groups and row
                                                            sums [parts, N, outputs], added up by the caller

Parts share the groups of a row among the GPU's processors; each has its own sums, so that the result does not depend on
who is first. Two kernels and not one with the Psumbook in shared memory: `tl.gather`, which that needs, does not
compile for one row (Triton 3.6).

Not run on a GPU yet: compared with the plain product in Triton's interpreter, and compiled for sm_90.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from prefillshare.codebook.kernels.layout import BLOCK_OUTPUTS, ENTRIES


# Triton reads annotations as its own types, so that arguments have none.
@triton.jit
def build_products(  # type: ignore[no-untyped-def]
    rows, codebooks, products, num_inputs, num_terms, NUM_CODES: tl.constexpr, LENGTH: tl.constexpr
):
    """Inner products of a term's inputs with all entries of its codebook [m, v, 256]."""
    term, row = tl.program_id(0), tl.program_id(1)
    first, codebook = term // NUM_CODES * LENGTH, term % NUM_CODES * LENGTH
    entries = tl.arange(0, 256)
    total = tl.zeros((256,), tl.float32)
    for i in tl.static_range(LENGTH):
        value = tl.load(rows + row * num_inputs + first + i).to(tl.float32)
        total += value * tl.load(codebooks + (codebook + i) * 256 + entries)
    tl.store(products + (row * num_terms + term) * 256 + entries, total)


@triton.jit
def add_products(codes, scales, products, sums, num_groups, num_terms, groups_of_part):  # type: ignore[no-untyped-def]
    """Sums of a block of outputs over a part of the groups.

    Shapes: codes (groups, blocks, terms of a group, 256), scales (groups, blocks * 256).
    """
    block, part, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    num_blocks, num_rows = tl.num_programs(0), tl.num_programs(2)
    outputs = tl.arange(0, 256)
    total = tl.zeros((256,), tl.float32)
    for group in range(part * groups_of_part, min((part + 1) * groups_of_part, num_groups)):
        found = tl.zeros((256,), tl.float32)
        for term in range(num_terms):
            named = tl.load(codes + ((group * num_blocks + block) * num_terms + term) * 256 + outputs).to(tl.int32)
            found += tl.load(products + ((row * num_groups + group) * num_terms + term) * 256 + named)
        total += found * tl.load(scales + (group * num_blocks + block) * 256 + outputs).to(tl.float32)
    tl.store(sums + ((part * num_rows + row) * num_blocks + block) * 256 + outputs, total)


def multiply(rows: Tensor, codes: Tensor, codebooks: Tensor, scales: Tensor, num_parts: int) -> Tensor:
    """Return the products [N, blocks * 256] in float32.

    Shapes: rows (N, in), codes (groups, blocks, terms of a group, 256) in the order of the outputs, codebooks
    (m, v, 256), scales (groups, blocks * 256).
    """
    num_groups, num_blocks, num_terms, _ = codes.shape
    num_codes, length, _ = codebooks.shape
    num_rows, all_terms = rows.shape[0], num_groups * num_terms
    groups_of_part = triton.cdiv(num_groups, num_parts)
    num_parts = triton.cdiv(num_groups, groups_of_part)
    products = torch.empty((num_rows, all_terms, ENTRIES), device=rows.device)
    sums = torch.empty((num_parts, num_rows, num_blocks * BLOCK_OUTPUTS), device=rows.device)
    build_products[all_terms, num_rows](
        rows.contiguous(), codebooks, products, rows.shape[1], all_terms, NUM_CODES=num_codes, LENGTH=length
    )
    add_products[num_blocks, num_parts, num_rows](codes, scales, products, sums, num_groups, num_terms, groups_of_part)
    return sums.sum(0)
