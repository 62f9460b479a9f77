"""Prompts that their callers want to have kept: given up after all others, for some time and within bounds.

A lease is a part of the tree's nodes, from the root on. It locks nothing: where memory is short of everything else,
what is leased goes too, so that no call waits for want of what nobody uses. Leases belong to an owner, a tenant or
whoever is none, and each owner has a share of the pool; who leases more gives up the oldest.

    path of a prompt   root -- n1 -- n2 -- n3     each node once, under the latest end that anybody asked for
    leased             |------------|             what the owner's share has room for
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefillshare.tenants.namespace import MARK, is_tenants
from sglang_patches.prefill.unshared import callers_key, is_unshared

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sglang.srt.managers.schedule_batch import Req
    from sglang.srt.mem_cache.evict_policy import EvictionStrategy
    from sglang.srt.mem_cache.radix_cache import RadixKey

    from sglang_patches.engine.radix_cache import SharedPrefillRadixCache

PIN_PARAMETER = "prefillshare_pin_s"
"""Among a request's ``custom_params``: for how many seconds its prompt should be kept."""
OWNERS_SHARE = 1 / 4
"""Of the pool, for one owner."""
ALL_SHARE = 1 / 2
"""Of the pool, for all of them."""
_MARK_LETTERS = len(MARK) + 32
"""Of a tenant's namespace, what says whose it is."""


@dataclass(slots=True)
class _Lease:
    owner: str
    ends_at: float
    num_tokens: int


class Leases:
    """The leases of one tree."""

    def __init__(self, pool_tokens: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_of_owner = int(pool_tokens * OWNERS_SHARE)
        self._most = int(pool_tokens * ALL_SHARE)
        self._clock = clock
        self._by_node: dict[int, _Lease] = {}

    def __len__(self) -> int:
        return len(self._by_node)

    def add(self, path: Sequence[Any], extra_key: str | None, seconds: float) -> None:
        """Keep the nodes of a path from the root, as far as its owner's share goes."""
        owner, ends_at = owner_of(extra_key), self._clock() + seconds
        self._end_old()
        for node in path:
            known = self._by_node.get(node.id)
            if known is not None:
                known.ends_at = max(known.ends_at, ends_at)
            elif self._make_room(owner, len(node.key), {each.id for each in path}):
                self._by_node[node.id] = _Lease(owner, ends_at, len(node.key))
            else:
                return

    def count_tokens(self) -> int:
        """Tokens that are kept now."""
        now = self._clock()
        return sum(lease.num_tokens for lease in self._by_node.values() if lease.ends_at > now)

    def is_kept(self, node: Any) -> bool:
        """Whether a node is to go after those that nobody wants to have kept."""
        lease = self._by_node.get(node.id)
        return lease is not None and lease.ends_at > self._clock()

    def split(self, upper: Any, lower: Any) -> None:
        """A node has become two, of which the lower one is the same object."""
        lease = self._by_node.get(lower.id)
        if lease is not None:
            self._by_node[upper.id] = _Lease(lease.owner, lease.ends_at, len(upper.key))
            lease.num_tokens = len(lower.key)

    def end(self, node: Any) -> None:
        """A node is gone."""
        self._by_node.pop(node.id, None)

    def _make_room(self, owner: str, num_tokens: int, own_path: set[int]) -> bool:
        """End the owner's older leases until there is room for so many tokens more; return whether there is."""
        while self._count(owner) + num_tokens > self._most_of_owner or self._count() + num_tokens > self._most:
            old = [node for node, lease in self._by_node.items() if lease.owner == owner and node not in own_path]
            if not old:
                return False
            del self._by_node[old[0]]  # in the order in which they came
        return True

    def _count(self, owner: str | None = None) -> int:
        return sum(lease.num_tokens for lease in self._by_node.values() if owner in (None, lease.owner))

    def _end_old(self) -> None:
        now = self._clock()
        self._by_node = {node: lease for node, lease in self._by_node.items() if lease.ends_at > now}


class KeptLast:
    """An order of eviction in which leased nodes come after all others."""

    def __init__(self, strategy: EvictionStrategy, leases: Leases) -> None:
        self.inner = strategy
        self._leases = leases

    def get_priority(self, node: Any) -> tuple[bool, Any]:
        """As SGLang's strategies: what comes first goes first."""
        return self._leases.is_kept(node), self.inner.get_priority(node)


def lease_prompt(cache: SharedPrefillRadixCache, req: Req) -> None:
    """Keep the prompt of a finished request for the time that its caller wants."""
    if cache.leases is None:
        cache.leases = Leases(cache.token_to_kv_pool_allocator.size)
        cache.eviction_strategy = KeptLast(cache.eviction_strategy, cache.leases)
    from sglang.srt.mem_cache.radix_cache import RadixKey

    key = RadixKey(req.origin_input_ids, req.extra_key).page_aligned(cache.page_size)
    path = find_path(cache.root_node, key, cache.page_size)
    cache.leases.add(path, req.extra_key, req.prefillshare.pin_s)


def drop_leases(cache: SharedPrefillRadixCache) -> None:
    """Nothing is kept any more."""
    if cache.leases is not None:
        cache.eviction_strategy, cache.leases = cache.eviction_strategy.inner, None


def find_path(root: Any, key: RadixKey, page_size: int) -> list[Any]:
    """The nodes that hold a prompt, from the root on; unlike a match it leaves the tree as it is."""
    node, path = root, []
    while len(key) > 0 and (child := node.children.get(key.child_key(page_size))) is not None:
        path.append(child)
        if child.key.match(key, page_size=page_size) < len(child.key):
            break  # the prompt ends in it
        node, key = child, key[len(child.key) :]
    return path


def owner_of(extra_key: str | None) -> str:
    """Whose share a namespace counts for: a tenant's, or that of whoever is none."""
    if is_unshared(extra_key):
        extra_key = callers_key(extra_key or "")
    return (extra_key or "")[:_MARK_LETTERS] if is_tenants(extra_key) else ""


def read_pin_s(custom_params: Any) -> float:
    """For how many seconds a request's prompt should be kept; 0 for no time."""
    return float(custom_params.get(PIN_PARAMETER, 0)) if isinstance(custom_params, dict) else 0.0
