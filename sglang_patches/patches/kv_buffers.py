"""A decode worker's KV pool lies in memory that prefill workers on its machine can map.

Target: ``sglang.srt.mem_cache.memory_pool.MHATokenToKVPool._create_buffers_normal``
Why: a pool in private memory is written to from outside only through the kernel.
How: where a decode worker's pool is in the host's memory, its buffers are made again in shared memory, of the same
    shapes. On a GPU, and where the system refuses, they stay what they were, and NIXL moves the KV.
Remove when: upstream asks the platform where its KV pool shall lie.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from prefillshare.contract import SHARED_MEMORY_VARIABLE
from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.role import is_decode_worker
from sglang_patches.disaggregation.shared_memory import SharedMemory

if TYPE_CHECKING:
    from sglang.srt.mem_cache.memory_pool import KVCache, MHATokenToKVPool

logger = logging.getLogger(__name__)


@wraps_upstream(
    "mem_cache.memory_pool:MHATokenToKVPool._create_buffers_normal",
    "e883448774fd59c4",
    "KV would be moved through the kernel to a worker that has its memory here",
)
def wrap_create_buffers_normal(original: Callable[[MHATokenToKVPool], None]) -> Callable[[MHATokenToKVPool], None]:
    def _create_buffers_normal(self: MHATokenToKVPool) -> None:
        original(self)
        if self.device == "cpu" and os.getenv(SHARED_MEMORY_VARIABLE) == "1" and is_decode_worker():
            _share(self)

    return _create_buffers_normal


def _share(pool: MHATokenToKVPool) -> None:
    try:
        memory, buffers = SharedMemory.replace([*pool.k_buffer, *pool.v_buffer])
    except OSError as error:
        logger.warning("KV comes by NIXL: its pool cannot lie in shared memory here: %s", error)
        return
    pool.k_buffer, pool.v_buffer = buffers[: pool.layer_num], buffers[pool.layer_num :]
    pool.prefillshare_memory = memory


def shared_memory_of(pool: KVCache) -> SharedMemory | None:
    """The memory in which the pool lies; None when that is private."""
    return getattr(pool, "prefillshare_memory", None)
