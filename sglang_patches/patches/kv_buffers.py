"""A KV pool in the host's memory takes what is used of it, and a decode worker's can be mapped by prefill workers.

Target: ``sglang.srt.mem_cache.memory_pool.MHATokenToKVPool._create_buffers_normal``
Why: zeros that are written take all of a pool's memory at the start, and the time to write them. And a pool in private
    memory is written to from outside only through the kernel.
How: where the pool is in the host's memory, upstream makes buffers without memory, and their place is taken by mapped
    ones of the same shapes, whose pages are zero and exist from when they are first written. A decode worker's are
    shared; where the system refuses that, they are private, and NIXL moves the KV. On a GPU nothing changes.
Remove when: upstream asks the platform where its KV pool shall lie.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from prefillshare.contract import SHARED_MEMORY_VARIABLE
from sglang_patches.cpu.mapped_zeros import mapped_zeros
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.role import is_decode_worker
from sglang_patches.disaggregation.shared_memory import SharedMemory

if TYPE_CHECKING:
    import torch
    from sglang.srt.mem_cache.memory_pool import KVCache, MHATokenToKVPool

logger = logging.getLogger(__name__)


@wraps_upstream(
    "mem_cache.memory_pool:MHATokenToKVPool._create_buffers_normal",
    "e883448774fd59c4",
    "KV would be moved through the kernel to a worker that has its memory here, and unused memory be taken",
)
def wrap_create_buffers_normal(original: Callable[[MHATokenToKVPool], None]) -> Callable[[MHATokenToKVPool], None]:
    def _create_buffers_normal(self: MHATokenToKVPool) -> None:
        if self.device != "cpu":
            original(self)
            return
        self.device = "meta"
        try:
            original(self)
        finally:
            self.device = "cpu"
        shapes = [*self.k_buffer, *self.v_buffer]
        buffers = _shared(self, shapes) if _is_written_to() else None
        buffers = buffers or [mapped_zeros(like.shape, like.dtype) for like in shapes]
        self.k_buffer, self.v_buffer = buffers[: self.layer_num], buffers[self.layer_num :]

    return _create_buffers_normal


def _is_written_to() -> bool:
    """Whether prefill workers on this machine may write into the pool."""
    return os.getenv(SHARED_MEMORY_VARIABLE) == "1" and is_decode_worker()


def _shared(pool: MHATokenToKVPool, shapes: Sequence[torch.Tensor]) -> list[torch.Tensor] | None:
    try:
        memory, buffers = SharedMemory.replace(shapes)
    except OSError as error:
        logger.warning("KV comes by NIXL: its pool cannot lie in shared memory here: %s", error)
        return None
    pool.prefillshare_memory = memory
    return buffers


def shared_memory_of(pool: KVCache) -> SharedMemory | None:
    """The memory in which the pool lies; None when that is private."""
    return getattr(pool, "prefillshare_memory", None)
