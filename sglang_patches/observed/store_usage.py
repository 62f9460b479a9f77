"""A scheduler's host tier and its use of the store: read at the moment of asking, as the KV memory is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.observe.document import StoreState

if TYPE_CHECKING:
    from prefillshare.store import StoreStats
    from sglang_patches.engine.radix_cache import SharedPrefillRadixCache
    from sglang_patches.store.cache import SharedHiRadixCache


def store_usage(tree_cache: SharedPrefillRadixCache) -> StoreState | None:
    """Of a tensor-parallel worker the first rank's share: each has pages of its own. None without a store."""
    if tree_cache.write_back is not None:
        return _of_decode_worker(tree_cache.write_back.stats(), tree_cache.write_back.num_dropped)
    return _of_host_tier(tree_cache) if hasattr(tree_cache, "store_stats") else None


def _of_host_tier(tree_cache: SharedHiRadixCache) -> StoreState:
    host = tree_cache.token_to_kv_pool_host
    state = _of_store(tree_cache.store_stats())
    state["host_hit_tokens"] = tree_cache.num_host_tokens
    state["store_hit_tokens"] = tree_cache.num_store_tokens
    state["fetched_pages"] = tree_cache.num_fetched_pages
    state["declined_loads"] = tree_cache.costs.num_declined
    state["host_capacity_tokens"] = int(host.size)
    state["host_used_tokens"] = int(host.size - host.available_size())
    return state


def _of_decode_worker(stats: StoreStats, num_dropped: int) -> StoreState:
    """It has no host tier and reads nothing: what it wrote are answers that went back."""
    state = _of_store(stats)
    state["refused_pages"] += num_dropped
    return state


def _of_store(stats: StoreStats | None) -> StoreState:
    tiers = stats.tiers if stats is not None else ()
    return {
        "host_hit_tokens": 0,
        "store_hit_tokens": 0,
        "fetched_pages": 0,
        "declined_loads": 0,
        "written_pages": stats.written_pages if stats is not None else 0,
        "evicted_pages": tiers[-1].evicted_pages if tiers else 0,
        "refused_pages": stats.refused_pages if stats is not None else 0,
        "damaged_pages": stats.damaged_pages if stats is not None else 0,
        "failures": stats.failures if stats is not None else 0,
        "host_capacity_tokens": 0,
        "host_used_tokens": 0,
        "is_attached": stats is not None,
        "capacity_bytes": sum(tier.capacity_bytes for tier in tiers),
        "used_bytes": sum(tier.used_bytes for tier in tiers),
        "num_pages": sum(tier.num_pages for tier in tiers),
    }
