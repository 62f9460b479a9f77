"""The CPU platform's LoRA products against a computation in float64, and against upstream."""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.lora.backend import torch_backend
from torch import Tensor

from sglang_patches.cpu import adapters, computation
from sglang_patches.cpu.computation import group_by_adapter

BATCHES = ([(1, 3)], [(0, 5)], [(0, 2), (1, 1), (0, 7), (1, 1)], [(1, 1), (2, 1), (1, 1), (3, 4), (1, 2)], [(1, 1)] * 3)
"""LoRA batches as segments (slot, tokens); slot 0 is the base and has rank 0."""
RANKS, SCALINGS = (0, 4, 8, 4), (0.0, 2.0, 0.5, 1.0)


def _lora_batch(segments: list[tuple[int, int]]) -> Any:
    slots, lengths = (torch.tensor(column) for column in zip(*segments, strict=True))
    return SimpleNamespace(
        use_cuda_graph=False,
        weight_indices_cpu=slots,
        seg_lens_cpu=lengths,
        lora_ranks_cpu=torch.tensor(RANKS),
        scalings_cpu=torch.tensor(SCALINGS),
    )


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("offsets", [[0, 24], [0, 16, 24, 32]])
@pytest.mark.parametrize("segments", BATCHES)
@pytest.mark.parametrize("has_base", [True, False])
@pytest.mark.parametrize(("dtype", "rtol", "atol"), [(torch.float32, 1e-5, 1e-5), (torch.bfloat16, 0.03, 0.5)])
def test_products_per_adapter_equal_those_per_segment(
    segments: list[tuple[int, int]], offsets: list[int], has_base: bool, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    torch.manual_seed(0)
    num_tokens, num_slices = sum(length for _, length in segments) + 1, len(offsets) - 1
    x = torch.randn(num_tokens, 12).to(dtype)
    weights_a = torch.randn(len(RANKS), num_slices * max(RANKS), 12).to(dtype)
    weights_b = torch.randn(len(RANKS), offsets[-1], max(RANKS)).to(dtype)
    base = torch.randn(num_tokens, offsets[-1]).to(dtype) if has_base else None

    def products(backend: Any) -> list[Tensor]:
        backend.batch_info = _lora_batch(segments)
        shrunk = backend.run_lora_a_sgemm(x, weights_a, num_slices)
        at = torch.tensor(offsets)
        outs = [shrunk, backend.run_lora_b_sgemm(shrunk, weights_b, at, None if base is None else base.clone())]
        given = (x, weights_a, weights_b)
        outs.append(
            backend.run_gate_up_lora(*given, output_offset_cpu=at, base_output=None if base is None else base.clone())
        )
        outs.append(
            backend.run_qkv_lora(
                *given, at, at, offsets[-1], None if base is None else base.clone(), n_slices=num_slices
            )
        )
        return outs

    found = products(_lora_backend(adapters))
    for product, expected in zip(found, products(_lora_backend(torch_backend)), strict=True):
        torch.testing.assert_close(product, expected, rtol=rtol, atol=atol)


def _lora_backend(module: Any) -> Any:
    """The backend of a module, ours or upstream's."""
    return module.TorchNativeLoRABackend(len(RANKS), torch.device("cpu"))


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("rank", [8, 16, 24, 32])
@pytest.mark.parametrize("num_rows", [1, 3, 20])
def test_an_adapter_of_any_rank_adds_its_product(rank: int, num_rows: int) -> None:
    """Columns that fill vectors and those that are left over; those beyond the rank are nobody's."""
    torch.manual_seed(0)
    offsets, taken = [0, 40, 72, 79], [2, *range(4, 3 + num_rows)]
    weights, base = torch.randn(2, 79, 32), torch.randn(30, 79)
    x = torch.randn(30, 3 * 32)
    groups = group_by_adapter([0, 1, 0, 1], [2, 1, 1, num_rows - 1], [0, rank], [0.0, 1.0])
    expected = base.double()
    for part, (start, end) in enumerate(itertools.pairwise(offsets)):
        given = x[taken, part * rank : (part + 1) * rank].double()
        expected[taken, start:end] += given @ weights[1, start:end, :rank].double().T
    found = computation.lora_b(x, weights, groups, offsets, base)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


def test_adapters_are_grouped_anew_for_each_batch() -> None:
    backend = _lora_backend(adapters)
    x, weights = torch.randn(3, 12), torch.randn(len(RANKS), max(RANKS), 12)
    products = []
    for slot in (1, 2, 1):
        backend.batch_info = _lora_batch([(slot, 3)])
        products.append(backend.run_lora_a_sgemm(x, weights))
    assert torch.equal(products[0], products[2])
    assert not torch.equal(products[0], products[1])


def test_an_adapter_is_multiplied_once_however_many_segments_it_has() -> None:
    groups = group_by_adapter([1, 0, 2, 1, 3], [1, 6, 2, 3, 0], RANKS, SCALINGS)
    assert [(group.slot, group.rank, group.scaling) for group in groups] == [(1, 4, 2.0), (2, 8, 0.5)]
    together, apart = groups[1].rows, groups[0].rows
    assert together == slice(7, 9)
    assert isinstance(apart, Tensor)
    assert apart.tolist() == [0, 9, 10, 11]
