"""A scheduler's host tier and its use of the store: read at the moment of asking, as the KV memory is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.observe.document import StoreState
from prefillshare.store.stats import Verdict

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


def _of_store(stats: StoreStats) -> StoreState:
    tiers = stats.tiers
    # Of the slowest tier: a codec is looked at for a disk first.
    encoding = tiers[-1].encoding if tiers else Verdict()
    return {
        "host_hit_tokens": 0,
        "store_hit_tokens": 0,
        "fetched_pages": 0,
        "declined_loads": 0,
        "written_pages": stats.written_pages,
        "evicted_pages": tiers[-1].evicted_pages if tiers else 0,
        "refused_pages": stats.refused_pages,
        "damaged_pages": stats.damaged_pages,
        "failures": stats.failures,
        "host_capacity_tokens": 0,
        "host_used_tokens": 0,
        "is_attached": stats.why_off is None,
        "why_off": stats.why_off,
        "capacity_bytes": sum(tier.capacity_bytes for tier in tiers),
        "used_bytes": sum(tier.used_bytes for tier in tiers),
        "used_disk_bytes": sum(tier.used_bytes for tier in tiers if tier.medium == "disk"),
        "num_pages": sum(tier.num_pages for tier in tiers),
        "codec": "splitzip" if encoding.is_encoded else "none",
        "codec_break_even_bytes_per_s": encoding.break_even_bytes_per_s,
        "medium_bytes_per_s": encoding.medium_bytes_per_s,
    }
