"""The scheduler tells how its KV memory is used and who waits, when it is asked.

Target: ``sglang.srt.managers.scheduler.Scheduler.get_internal_state``
Why: SGLang's gauges are as old as the last logged batch and know no decode module; an idle engine's are stale.
How: the numbers, read at the moment of asking, stand under ``prefillshare`` in the reply.
Upstream: sglang/srt/managers/scheduler.py:4165 at 0.5.17.
Remove when: upstream's load snapshot tells shared, private and free tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from prefillshare.observe.document import KvState
from sglang_patches.observed.call_report import META_KEY


def wrap_get_internal_state(original: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    def get_internal_state(self: Any, recv_req: Any) -> Any:
        reply = original(self, recv_req)
        reply.internal_state[META_KEY] = {
            "kv": kv_usage(self.tree_cache, self.token_to_kv_pool_allocator, self.ps.tp_size),
            "queued": dict(Counter(req.decode_module or "" for req in _waiting(self))),
            "flushes": max(self.tree_cache.num_flushes, 0),
        }
        return reply

    return get_internal_state


def kv_usage(tree_cache: Any, allocator: Any, num_ranks: int) -> KvState:
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
        # The pool has one page more, which nobody owns.
        "token_bytes": num_ranks * int(sum(pool.get_kv_size_bytes())) // (pool.size + pool.page_size),
    }


def _waiting(scheduler: Any) -> Iterator[Any]:
    """Requests that have not been computed on; across workers also those whose other half is not ready."""
    yield from scheduler.waiting_queue
    if (bootstrapping := scheduler.disagg_prefill_bootstrap_queue) is not None:
        yield from bootstrapping.queue
    for queue in (scheduler.disagg_decode_prealloc_queue, scheduler.disagg_decode_transfer_queue):
        if queue is not None:
            yield from (decode_req.req for decode_req in queue.queue)
