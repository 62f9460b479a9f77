"""How much of the host tier loads from the store may take, and what was loaded for requests that are not admitted yet.

A request whose load has ended waits until the pool has room for it. Until then nothing of it is in use, so what other
requests back up or load would take the room of its pages, and it would prefill all the same. They are held until it is
admitted; and only so much is loaded at once that what is backed up finds room beside it:

    host tier   |- copies of what the pool holds -|-- held and being loaded --|- free for what is backed up next -|

A host tier that is hardly larger than the pool is filled by copies of what the pool holds, which cannot give way alone:
a load then makes its room in both (:func:`take_rows`), as the request it is for would do in the pool a moment later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from sglang.srt.mem_cache.base_prefix_cache import EvictParams

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.hiradix_cache import HiRadixCache
    from sglang.srt.mem_cache.radix_cache import RadixKey, TreeNode

_SHARE_BESIDE_POOL = 0.75
_LEAST_SHARE = 0.25
"""Where the host tier is hardly larger than the pool."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoomSeen:
    """What decides whether rows of the host tier can be had: as long as it stays the same, so does the answer."""

    free_tokens: int
    evictable_tokens: int
    """Of the pool."""
    num_evictable_leaves: int
    """Of the host tier."""
    num_being_stored: int
    locked_tokens: int
    """Of the pool, by requests that run and copies that are under way: it is evictable when they have ended."""

    @classmethod
    def of(cls, tree: HiRadixCache) -> Self:
        """The room of a tree now."""
        return cls(
            free_tokens=tree.token_to_kv_pool_host.available_size(),
            evictable_tokens=tree.evictable_size(),
            num_evictable_leaves=len(tree.evictable_host_leaves),
            num_being_stored=len(tree.ongoing_backup),
            locked_tokens=tree.protected_size(),
        )

    @property
    def is_anything_locked(self) -> bool:
        """Whether there will be more room without anybody's doing."""
        return self.locked_tokens > 0 or self.num_being_stored > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Postponed:
    """A request whose load had no room."""

    req: Req
    seen: RoomSeen | None = None
    """The room in which it was tried; None when others' loads were too many."""


def take_rows(tree: HiRadixCache, num_tokens: int) -> torch.Tensor:
    """Rows of the host tier, so many if they can be had; what nobody uses gives way, in the pool where it has to."""
    host = tree.token_to_kv_pool_host
    if (missing := num_tokens - host.available_size()) > 0:
        tree.evict_host(missing)
    while (missing := num_tokens - host.available_size()) > 0:
        if tree.evict(EvictParams(num_tokens=missing)).num_tokens_evicted == 0:
            break
        tree.evict_host(missing)
    rows: torch.Tensor = host.alloc(min(num_tokens, host.available_size() // host.page_size * host.page_size))
    return rows


def last_on_host(node: TreeNode, key: RadixKey, page_size: int) -> TreeNode:
    """The last node below ``node`` that has nothing but tokens of ``key``."""
    while len(key) > 0 and (child := node.children.get(key.child_key(page_size))) is not None:
        if len(child.key) > len(key) or child.key.match(key, page_size=page_size) < len(child.key):
            break
        node, key = child, key[len(child.key) :]
    return node


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    req: Req
    node: TreeNode
    num_tokens: int


class HeldLoads:
    """What was loaded and is waited for, by request."""

    def __init__(self, *, host_tokens: int, pool_tokens: int) -> None:
        self._limit = max(_LEAST_SHARE * host_tokens, _SHARE_BESIDE_POOL * (host_tokens - pool_tokens))
        self._held: dict[str, _Held] = {}

    def __contains__(self, rid: str) -> bool:
        return rid in self._held

    def has_room(self, num_loading: int) -> bool:
        """Whether another load may begin beside those that make ``num_loading`` tokens."""
        if self._sum() + num_loading < self._limit:
            return True
        # Requests that ended without having been admitted.
        for rid in [rid for rid, held in self._held.items() if held.req.finished()]:
            self.release(rid)
        return self._sum() + num_loading < self._limit

    def hold(self, req: Req, node: TreeNode, num_tokens: int) -> None:
        """Keep ``node``, and so all before it, in the host tier until the request is admitted."""
        self.release(req.rid)
        node.protect_host()
        self._held[req.rid] = _Held(req=req, node=node, num_tokens=num_tokens)

    def release(self, rid: str) -> None:
        """The request was admitted, or will not be."""
        if (held := self._held.pop(rid, None)) is not None:
            held.node.release_host()

    def clear(self) -> None:
        """The nodes are gone."""
        self._held.clear()

    def _sum(self) -> int:
        return sum(held.num_tokens for held in self._held.values())


_ROOM = "which rows of the host tier can be had, and who is told that they were taken"

RELIED_ON = {
    "mem_cache.hiradix_cache:HiRadixCache.evict_host": ("57fcbdba95fcf166", _ROOM),
    "mem_cache.hiradix_cache:HiRadixCache._drain_storage_control_queues_impl": ("5219725fe8c543f6", _ROOM),
    "mem_cache.pool_host.base:HostKVCache.alloc": ("8fb8a699cadc8480", _ROOM),
    "managers.cache_controller:HiCacheController.prefetch_io_aux_func": ("b0440400b2e47dbf", _ROOM),
}
