"""A decode worker's way to the store: answers whose KV is the prefill module's go back to the prefill workers.

A module that reads base-made KV only (:mod:`sglang_patches.icarus`) leaves base-made KV of all that it says on its
decode worker, and the next prompt begins with it. When such a call ends, the whole pages of its prompt and answer that
the store lacks are copied here and written by a thread; whichever prefill worker gets the next prompt finds them there.

Who owns what: the scheduler's thread copies the rows while they are still the request's; from then on the copy is this
file's, and the rows may be freed and used again. No decode step waits for the store: what does not fit into
``MAX_PENDING_BYTES`` of copies is dropped, counted, and prefilled when it comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from prefillshare.store import KvStore, StoreIdentity, StoreLink, StoreStats, chain_keys
from sglang_patches.cpu.host_pool import LAYOUT as HOST_LAYOUT
from sglang_patches.cpu.platform import has_accelerator
from sglang_patches.store.identity import KvPool, identify, read_settings

if TYPE_CHECKING:
    from sglang.srt.mem_cache.radix_cache import RadixKey
    from sglang.srt.mem_cache.registry import TreeCacheBuildContext

MAX_PENDING_BYTES = 256 << 20
"""Of copies that are not written yet, in the memory where the KV is."""


class RowBuffers(KvPool, Protocol):
    """Rows of K and V by layer."""

    k_buffer: Sequence[torch.Tensor]
    v_buffer: Sequence[torch.Tensor]


class WriteBack:
    """Writes pages of one rank; its own thread does all but look for them and copy rows."""

    def __init__(
        self,
        store: KvStore | StoreLink,
        identity: StoreIdentity,
        pool: RowBuffers,
        max_pending_bytes: int = MAX_PENDING_BYTES,
    ) -> None:
        self._store, self._identity, self._pool = store, identity, pool
        self._max_pending = max_pending_bytes // identity.page_bytes
        self._thread = _new_thread()
        self._num_begun = 0
        """Pages that were copied; counted by the scheduler's thread."""
        self._num_ended = 0
        """Of these, pages that were written or given up; counted by the own thread."""
        self._num_flushes = 0
        self.num_dropped = 0
        """Pages that found no room beside those that wait, or nobody to write them."""

    def add(self, key: RadixKey, rows: torch.Tensor) -> None:
        """Take the whole pages of ``key``, whose KV is in ``rows``, as far as the store lacks them.

        Effects: the rows were read when it returns.
        """
        page_size = self._identity.page_size
        keys = chain_keys(self._identity, key.extra_key, key.raw_token_ids(), page_size)
        if not self._store.is_open:
            self.num_dropped += len(keys)
            return
        # The prompt's pages are there already, or on their way: a prefill worker writes them as it makes them.
        start = self._store.count_present(keys)
        end = min(len(keys), start + self._max_pending - (self._num_begun - self._num_ended))
        if start < end and not self._begin(keys[:end], rows[start * page_size : end * page_size]):
            end = start
        self.num_dropped += len(keys) - max(start, end)

    def _begin(self, keys: list[bytes], rows: torch.Tensor) -> bool:
        """Copy the rows, which hold the last pages of ``keys``, and have the copy written; False without memory, or
        without a thread."""
        try:
            pages = self._copy(rows.to(torch.int64))
        except torch.OutOfMemoryError:  # the rows' own pool has left a GPU less than the copies may take
            return False
        is_copied = None
        if pages.device.type != "cpu":
            # The thread has a stream of its own, and must not read before the copy is made.
            is_copied = torch.get_device_module(pages.device).Event()
            is_copied.record()
        if self._submit(self._write, self._num_flushes, keys, pages, is_copied) is None:
            return False
        self._num_begun += len(pages)
        return True

    def _submit(self, work: Callable[..., Any], *given: Any) -> Future[Any] | None:
        """Give work to the thread, which the first work starts; None where this user may have no more threads now."""
        try:
            return self._thread.submit(work, *given)
        except RuntimeError:
            # The old one keeps the work for a thread that never comes, or comes late.
            self._thread = _new_thread()
            return None

    def flush(self) -> None:
        """Forget what waits and what the store has: an answer from before a flush must not come in after it."""
        self._num_flushes += 1
        if (forgotten := self._submit(self._store.forget_all)) is None:
            self._store.forget_all()  # nobody writes
        else:
            forgotten.result()

    def stats(self) -> StoreStats:
        """What the store holds and what this rank did with it."""
        return self._store.stats()

    def _copy(self, rows: torch.Tensor) -> torch.Tensor:
        """KV of the rows, page by page in the order of the host tier (:mod:`sglang_patches.cpu.host_pool`)."""
        pool, page_size = self._pool, self._identity.page_size
        shape = (len(rows) // page_size, page_size, pool.head_num, pool.head_dim)
        pages = torch.empty((shape[0], 2, pool.layer_num, *shape[1:]), dtype=pool.store_dtype, device=rows.device)
        for kind, buffers in enumerate((pool.k_buffer, pool.v_buffer)):
            for layer, buffer in enumerate(buffers):
                pages[:, kind, layer] = buffer[rows].view(shape)
        return pages

    def _write(self, num_flushes: int, keys: list[bytes], pages: torch.Tensor, is_copied: torch.Event | None) -> None:
        try:
            if num_flushes == self._num_flushes:
                if is_copied is not None:
                    is_copied.synchronize()
                known = len(keys) - len(pages)
                self._store.write(keys[known:], _as_bytes(pages.cpu()), prefix=keys[:known])
        finally:
            self._num_ended += len(pages)


def _new_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="write back")


def _as_bytes(pages: torch.Tensor) -> list[np.ndarray]:
    return list(pages.view(len(pages), -1).view(torch.uint8).numpy())


def make_write_back(context: TreeCacheBuildContext, told: Mapping[str, Any], weights: str) -> WriteBack:
    """This rank's way to the store that the launcher has ``told`` of."""
    pool = context.params.token_to_kv_pool_allocator.get_kvcache()
    identity = identify(
        pool,
        weights=weights,
        page_size=context.params.page_size,
        layout=context.server_args.hicache_mem_layout if has_accelerator() else HOST_LAYOUT,
        tp_rank=context.tp_rank,
        tp_size=context.tp_size,
        token_bytes=2 * pool.layer_num * pool.head_num * pool.head_dim * pool.store_dtype.itemsize,
    )
    return WriteBack(StoreLink(read_settings(told["store"]), identity), identity, pool)
