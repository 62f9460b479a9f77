"""HiCache's way to the store: whole pages between the host tier and :class:`prefillshare.store.StoreLink`.

SGLang makes it by the name that ``launch`` gives (backend ``dynamic``, ``interface_v1``), in each rank's scheduler. Its
two threads call :meth:`StoreBackend.batch_get_v1` and :meth:`StoreBackend.batch_set_v1`: an exception there would
end them, and with them every load, so nothing here raises. What the store cannot give or take is a miss.

Where no GPU is, the store reads and writes the host tier's pages in place (:mod:`sglang_patches.cpu.host_pool`);
upstream's pinned pool has K and V of a page in two places, which are joined in a buffer between.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sglang.srt.mem_cache.hicache_storage import HiCacheStorage, HiCacheStorageConfig

from prefillshare.store import StoreIdentity, StoreLink, StoreStats
from sglang_patches.store.costs import Pace
from sglang_patches.store.identity import identify, read_settings

if TYPE_CHECKING:
    from prefillshare.store.remote.client import FetchClient


class StoreBackend(HiCacheStorage):
    """One rank's place at the store; without it, everything is a miss."""

    def __init__(self, config: HiCacheStorageConfig, _: object) -> None:
        self._config = config
        self._store: StoreLink | None = None
        """None before it is attached, and after it is left."""
        self._fetches: FetchClient | None = None
        self.load_pace = Pace()
        """Measured by the thread that loads; the scheduler's only reads it."""

    def attach(self, weights: str) -> StoreIdentity:
        """Open the store for pages of this rank that ``weights`` make; what they are.

        An engine whose store cannot be had serves without it, says so once, and takes it up when it can.
        """
        identity = self._identify(weights)
        told = self._config.extra_config or {}
        settings = read_settings(told["store"])
        self._store = StoreLink(settings, identity)
        if told.get("fetches"):
            # Late: without peers, nothing of it is imported.
            from prefillshare.store.remote.client import FetchClient

            self._fetches = FetchClient(settings, identity)
        return identity

    def _identify(self, weights: str) -> StoreIdentity:
        pool = self.mem_pool_host
        return identify(
            pool.device_pool,
            weights=weights,
            page_size=pool.page_size,
            layout=pool.layout,
            tp_rank=self._config.tp_rank,
            tp_size=self._config.tp_size,
            token_bytes=pool.size_per_token,
        )

    def stats(self) -> StoreStats:
        """What the store holds, what this rank did with it, and why there is none."""
        return self._store.stats() if self._store is not None else StoreStats(why_off="the engine ends")

    @property
    def is_open(self) -> bool:
        """Whether there is a store now."""
        return self._store is not None and self._store.is_open

    def count_present(self, keys: Sequence[str]) -> int:
        """Length of the leading run of ``keys`` that the store has; marks all of them as used, the first as latest."""
        return self._store.count_present(_digests(keys)) if self._store is not None else 0

    @property
    def has_peers(self) -> bool:
        """Whether other hosts can be asked for pages."""
        return self._fetches is not None

    @property
    def num_fetched_pages(self) -> int:
        """Pages that other hosts' stores gave to this host's, asked for by this rank."""
        return self._fetches.num_pages if self._fetches is not None else 0

    def begin_fetch(self, keys: Sequence[str], prefix: Sequence[str], timeout_s: float) -> Future[int]:
        """Begin to bring pages of other hosts, which continue those of ``prefix``, into this host's store."""
        assert self._fetches is not None
        return self._fetches.begin(_digests(keys), _digests(prefix), timeout_s)

    def batch_exists(self, keys: list[str], extra_info: object = None) -> int:
        return self.count_present(keys)

    def batch_get_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: object = None) -> list[bool]:
        if self._store is None:
            return [False] * len(keys)
        began = time.perf_counter()
        pages = self._pages_to_fill(host_indices)
        num_read = self._store.read(_digests(keys), pages)
        self._keep(pages[:num_read], host_indices)
        self.load_pace.add(num_read * self.mem_pool_host.page_size, time.perf_counter() - began)
        return [index < num_read for index in range(len(keys))]

    def batch_set_v1(self, keys: list[str], host_indices: torch.Tensor, extra_info: object = None) -> list[bool]:
        if self._store is not None:
            self._store.write(_digests(keys), self._pages_to_read(host_indices))
        # The store counts and tells what it could not take; SGLang would log a line for each batch.
        return [True] * len(keys)

    def clear(self) -> None:
        """Forget all pages of this identity."""
        if self._store is not None:
            self._store.forget_all()

    def close(self) -> None:
        """Leave the store; its pages stay."""
        if self._fetches is not None:
            self._fetches.close()
        store, self._store = self._store, None
        if store is not None:
            store.close()

    # Pages of the host tier as bytes

    @property
    def _lies_in_one_piece(self) -> bool:
        return hasattr(self.mem_pool_host, "page_bytes")

    def _pages_to_read(self, host_indices: torch.Tensor) -> list[np.ndarray]:
        if self._lies_in_one_piece:
            return list(self.mem_pool_host.page_bytes(host_indices))
        firsts = _first_rows(host_indices, self.mem_pool_host.page_size)
        return [self.mem_pool_host.get_data_page(row).view(torch.uint8).numpy() for row in firsts]

    def _pages_to_fill(self, host_indices: torch.Tensor) -> list[np.ndarray]:
        if self._lies_in_one_piece:
            return list(self.mem_pool_host.page_bytes(host_indices))
        pool = self.mem_pool_host
        num_pages = len(host_indices) // pool.page_size
        return list(np.empty((num_pages, pool.size_per_token * pool.page_size), np.uint8))

    def _keep(self, pages: Sequence[np.ndarray], host_indices: torch.Tensor) -> None:
        """Put what was read to its place, where it was not read there."""
        if self._lies_in_one_piece:
            return
        pool = self.mem_pool_host
        for row, page in zip(_first_rows(host_indices, pool.page_size), pages, strict=False):
            pool.set_from_flat_data_page(row, torch.from_numpy(page).view(pool.dtype))

    # What HiCacheStorage declares beside, and nothing calls with ``interface_v1``

    def get(self, key: str, target_location: Any = None, target_sizes: Any = None) -> None:
        return None

    def batch_get(self, keys: list[str], target_locations: Any = None, target_sizes: Any = None) -> list[None]:
        return [None] * len(keys)

    def set(self, key: str, value: Any = None, target_location: Any = None, target_sizes: Any = None) -> bool:
        return False

    def batch_set(
        self, keys: list[str], values: Any = None, target_locations: Any = None, target_sizes: Any = None
    ) -> bool:
        return False

    def exists(self, key: str) -> bool:
        return self.count_present([key]) == 1


def _digests(keys: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(key) for key in keys]


def _first_rows(host_indices: torch.Tensor, page_size: int) -> Iterator[int]:
    return iter(host_indices[::page_size].tolist())
