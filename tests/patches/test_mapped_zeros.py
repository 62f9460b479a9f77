"""Memory of pools is taken when it is written to, not when they are made."""

from pathlib import Path

import pytest
import torch

from sglang_patches.cpu.mapped_zeros import mapped_zeros

NUM_ROWS = 400_000
"""So many that a page of 2 MiB is little of them."""


def _resident_bytes() -> int:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_zeros_take_memory_when_they_are_written(dtype: torch.dtype) -> None:
    before = _resident_bytes()
    tensor = mapped_zeros((NUM_ROWS, 2, 64), dtype)
    assert (tensor.shape, tensor.dtype, tensor.is_contiguous()) == ((NUM_ROWS, 2, 64), dtype, True)
    assert _resident_bytes() - before < tensor.nbytes // 4
    tensor[7:9] = 3
    assert (int(tensor[6].sum()), int(tensor[7].sum()), int(tensor[9].sum())) == (0, 3 * 128, 0)
    assert _resident_bytes() - before < tensor.nbytes // 4
    tensor.fill_(1)
    assert _resident_bytes() - before > tensor.nbytes // 2
