"""Pages of a tree with a store are called by our own chain of hashes.

Target: ``sglang.srt.mem_cache.utils.compute_node_hash_values``
Why: SGLang's chain begins with the first page's tokens: neither the weights nor the tenant (``extra_key``) are in it,
    so an engine with other weights, or a tenant who wants to be kept apart, would find these pages. Its hash is C++,
    which is compiled when the first prompt comes: half a minute, and only where there is a compiler.
How: the root of a tree with a store carries what names its pages (:mod:`sglang_patches.store.page_keys`); all other
    trees keep the original.
Remove when: upstream's chain begins with a seed that an engine can choose per namespace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.mem_cache.radix_cache import TreeNode

    from sglang_patches.store.page_keys import PageKeys

ROOT_ATTRIBUTE = "prefillshare_page_keys"
"""Of a tree's root: a ``PageKeys``, or None before there is one."""


@wraps_upstream(
    "mem_cache.utils:compute_node_hash_values",
    "49090f09e4a1230f",
    "tenants and engines with other weights would find each other's pages in the store",
)
def wrap_compute_node_hash_values(original: Callable[..., list[str]]) -> Callable[..., list[str]]:
    def compute_node_hash_values(node: TreeNode, page_size: int) -> list[str]:
        page_keys: PageKeys | None = getattr(_root_of(node), ROOT_ATTRIBUTE, None)
        if page_keys is None:
            return original(node, page_size)
        return page_keys.of(node.key, node.parent.get_last_hash_value())

    return compute_node_hash_values


def _root_of(node: Any) -> Any:
    while node.parent is not None:
        node = node.parent
    return node
