"""A scheduler's host tier and its use of the store: read at the moment of asking, as the KV memory is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.observe.document import StoreState
from prefillshare.store.stats import Verdict

if TYPE_CHECKING:
    from sglang_patches.store.cache import SharedHiRadixCache


def store_usage(tree_cache: SharedHiRadixCache) -> StoreState:
    """Of a tensor-parallel worker the first rank's share: each has pages of its own."""
    host, stats = tree_cache.token_to_kv_pool_host, tree_cache.store_stats()
    tiers = stats.tiers if stats is not None else ()
    # Of the slowest tier: a codec is looked at for a disk first.
    encoding = tiers[-1].encoding if tiers else Verdict()
    return {
        "host_hit_tokens": tree_cache.num_host_tokens,
        "store_hit_tokens": tree_cache.num_store_tokens,
        "fetched_pages": tree_cache.num_fetched_pages,
        "declined_loads": tree_cache.costs.num_declined,
        "written_pages": stats.written_pages if stats is not None else 0,
        "evicted_pages": tiers[-1].evicted_pages if tiers else 0,
        "refused_pages": stats.refused_pages if stats is not None else 0,
        "damaged_pages": stats.damaged_pages if stats is not None else 0,
        "failures": stats.failures if stats is not None else 0,
        "host_capacity_tokens": int(host.size),
        "host_used_tokens": int(host.size - host.available_size()),
        "is_attached": stats is not None,
        "capacity_bytes": sum(tier.capacity_bytes for tier in tiers),
        "used_bytes": sum(tier.used_bytes for tier in tiers),
        "num_pages": sum(tier.num_pages for tier in tiers),
        "codec": "splitzip" if encoding.is_encoded else "none",
        "codec_break_even_bytes_per_s": encoding.break_even_bytes_per_s,
        "medium_bytes_per_s": encoding.medium_bytes_per_s,
    }
