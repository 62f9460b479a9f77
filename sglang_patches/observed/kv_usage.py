"""How the KV memory of a scheduler is used, and who waits: read at the moment of asking.

SGLang's gauges are as old as the last logged batch and know no decode module; an idle engine's are stale.
:mod:`sglang_patches.engine.scheduler` puts this into its reply.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prefillshare.observe.document import KvState
from sglang_patches.disaggregation.pushes import is_push

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.managers.scheduler import Scheduler
    from sglang.srt.mem_cache.allocator import BaseTokenToKVPoolAllocator

    from sglang_patches.engine.radix_cache import SharedPrefillRadixCache


def kv_usage(tree_cache: SharedPrefillRadixCache, allocator: BaseTokenToKVPoolAllocator, num_ranks: int) -> KvState:
    """Tokens by owner, and the bytes of one.

    capacity = free + shared (in the tree: locked or evictable) + private (of requests, beyond the tree)
    """
    pool = allocator.get_kvcache()
    free, evictable = int(allocator.available_size()), int(tree_cache.evictable_size())
    shared = evictable + int(tree_cache.protected_size())
    return {
        "capacity_tokens": int(allocator.size),
        "shared_tokens": shared,
        "private_tokens": int(allocator.size) - free - shared,
        "free_tokens": free,
        "evictable_tokens": evictable,
        "pinned_tokens": 0 if tree_cache.leases is None else tree_cache.leases.count_tokens(),
        # The pool has one page more, which nobody owns.
        "token_bytes": num_ranks * int(sum(pool.get_kv_size_bytes())) // (pool.size + pool.page_size),
    }


def waiting_requests(scheduler: Scheduler) -> Iterator[Req]:
    """Calls that have not been computed on; across workers also those whose other half is not ready."""
    yield from (req for req in _list_waiting(scheduler) if not is_push(req))


def _list_waiting(scheduler: Scheduler) -> Iterator[Req]:
    yield from scheduler.waiting_queue
    if (bootstrapping := scheduler.disagg_prefill_bootstrap_queue) is not None:
        yield from bootstrapping.queue
    for queue in (scheduler.disagg_decode_prealloc_queue, scheduler.disagg_decode_transfer_queue):
        if queue is not None:
            yield from (decode_req.req for decode_req in queue.queue)
