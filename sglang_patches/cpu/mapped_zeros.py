"""Zeros in the host's memory that take none before they are written: ``torch.zeros`` writes them all at once."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence

import torch


def mapped_zeros(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor in memory of this process alone, whose pages exist from when they are first written."""
    num_bytes = math.prod(shape) * dtype.itemsize
    memory = mmap.mmap(-1, num_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=dtype).view(*shape)
