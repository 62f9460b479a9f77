"""The host tier where no GPU is: a second pool in plain memory, each page in one piece.

Target: ``sglang.srt.mem_cache.pool_host.mha.get_mha_host_pool_cls``
Why: upstream's pool pins its memory, copies with CUDA kernels, and wants 10 GB of free memory beside itself.
How: pages lie one after the other, so that the store reads and writes them where they are; rows are copied by index.
    Where an accelerator is, upstream's class is used.

    one page:   K  layer 0 | layer 1 | ...     V  layer 0 | layer 1 | ...
                each of page_size x head_num x head_dim values

Remove when: upstream's pool works on a machine without an accelerator.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.mem_cache.pool_host.base import HostKVCache

from sglang_patches.cpu.mapped_zeros import mapped_zeros
from sglang_patches.cpu.platform import has_accelerator
from sglang_patches.declarations import wraps_upstream

LAYOUT = "page"
"""Name of the order of things inside of a page; a page of upstream's ``layer_first`` has the same bytes."""


class PagedHostPool(HostKVCache):
    """Pages of K and V of all layers, copied row by row from and to the pool that the model reads."""

    def __init__(
        self,
        device_pool: Any,
        host_to_device_ratio: float,
        host_size: int,
        page_size: int,
        layout: str,
        pin_memory: bool = False,
        device: str = "cpu",
        allocator_type: str = "default",
        *,
        pool_label: str = "kv",
    ) -> None:
        # Upstream's constructor refuses a machine with less than 10 GB of free memory; `launch` checks sizes itself.
        self.device_pool, self.device, self.pool_label = device_pool, device, pool_label
        self.page_size, self.layout, self.pin_memory = page_size, LAYOUT, False
        self.can_use_write_back_jit, self.fd = False, None
        self.dtype = device_pool.store_dtype
        self.size_per_token = self.get_size_per_token()
        wanted = int(host_size * 1e9) // self.size_per_token or int(device_pool.size * host_to_device_ratio)
        self.page_num = wanted // page_size + 1
        self.size = self.page_num * page_size
        self.start_layer, self.end_layer = device_pool.start_layer, device_pool.end_layer
        self.kv_buffer = self.init_kv_buffer()
        self.lock = threading.RLock()
        self.clear()

    def get_size_per_token(self) -> int:
        pool = self.device_pool
        self.head_num, self.head_dim, self.layer_num = pool.head_num, pool.head_dim, pool.layer_num
        return int(self.head_dim * self.head_num * self.layer_num * self.dtype.itemsize * 2)

    def init_kv_buffer(self) -> torch.Tensor:
        shape = (self.page_num, 2, self.layer_num, self.page_size, self.head_num, self.head_dim)
        return mapped_zeros(shape, self.dtype)

    def page_bytes(self, host_indices: torch.Tensor) -> list[Any]:
        """The pages that begin at each page's first row, as writable bytes in place."""
        rows = self.kv_buffer.view(self.page_num, -1).view(torch.uint8).numpy()
        return [rows[page] for page in (host_indices[:: self.page_size] // self.page_size).tolist()]

    def load_to_device_per_layer(
        self, device_pool: Any, host_indices: Any, device_indices: Any, layer_id: int, io_backend: str
    ) -> None:
        page, row = host_indices // self.page_size, host_indices % self.page_size
        for kind, buffers in enumerate((device_pool.k_buffer, device_pool.v_buffer)):
            buffers[layer_id][device_indices] = self.kv_buffer[page, kind, layer_id, row]

    def backup_from_device_all_layer(
        self, device_pool: Any, host_indices: Any, device_indices: Any, io_backend: str
    ) -> None:
        page, row = host_indices // self.page_size, host_indices % self.page_size
        for kind, buffers in enumerate((device_pool.k_buffer, device_pool.v_buffer)):
            for layer in range(self.layer_num):
                self.kv_buffer[page, kind, layer, row] = buffers[layer][device_indices]

    def get_data_page(self, index: int, flat: bool = True) -> torch.Tensor:
        page = self.kv_buffer[int(index) // self.page_size]
        return page.flatten() if flat else page

    def get_dummy_flat_data_page(self) -> torch.Tensor:
        return torch.zeros_like(self.kv_buffer[0]).flatten()

    def set_from_flat_data_page(self, index: int, data_page: torch.Tensor) -> None:
        page = self.kv_buffer[int(index) // self.page_size]
        page.copy_(data_page.view_as(page))


@wraps_upstream(
    "mem_cache.pool_host.mha:get_mha_host_pool_cls", "70c2131252831d39", "a host tier would ask CUDA for pinned memory"
)
def wrap_get_mha_host_pool_cls(original: Callable[[Any], type]) -> Callable[[Any], type]:
    def get_mha_host_pool_cls(device_pool: Any) -> type:
        return original(device_pool) if has_accelerator() else PagedHostPool

    return get_mha_host_pool_cls
