"""KV pages of one deployment, kept in shared memory and on disk, for every process of it.

What a page is, is the engine's business: here it is a key and bytes. Nothing in this package imports SGLang or torch;
the kernel for a GPU (`codec/triton_kernels.py`) is imported by whoever has one. docs/store-format.md has the layout on
disk and in memory and what holds when a process dies.
"""

from prefillshare.store.identity import StoreIdentity, chain_keys
from prefillshare.store.link import StoreLink
from prefillshare.store.owner import StoreOwner
from prefillshare.store.settings import StoreSettings
from prefillshare.store.stats import StoreStats, TierStats
from prefillshare.store.store import KvStore

__all__ = [
    "KvStore",
    "StoreIdentity",
    "StoreLink",
    "StoreOwner",
    "StoreSettings",
    "StoreStats",
    "TierStats",
    "chain_keys",
]
