"""Zeros in the host's memory that take none before they are written: ``torch.zeros`` writes them all at once."""

from __future__ import annotations

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch


def mapped_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in memory of this process alone, whose pages exist from when they are first written.

    Pages of 2 MiB where the system has them, as torch's own memory (`THP_MEM_ALLOC_ENABLE`): attention reads rows here
    and there, and looks pages up for it.
    """
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without such pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
