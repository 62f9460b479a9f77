"""How much of the tree each tenant's prompts take: counted where the tree grows and shrinks, read without a walk.

SGLang's tree counts its tokens in two numbers (evictable, locked) and does not know whose they are. Where something
adds or drops nodes of a tenant's namespace, the difference of their sum is that tenant's; room that others lose within
it (a load that evicts) is counted as theirs, and left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sglang_patches.prefill.leases import owner_of

if TYPE_CHECKING:
    from sglang_patches.engine.radix_cache import SharedPrefillRadixCache


class Holdings:
    """Tokens in one tree by tenant."""

    def __init__(self, tree: SharedPrefillRadixCache) -> None:
        self._tree = tree
        self._by_owner: Counter[str] = Counter()
        self._num_counted = 0

    @contextmanager
    def changing(self, owner: str) -> Iterator[None]:
        """Count what the tree grows or shrinks by while the context is open for ``owner``."""
        total, counted = self._total(), self._num_counted
        try:
            yield
        finally:
            # What contexts within this one have counted is others'.
            change = self._total() - total - (self._num_counted - counted)
            self._num_counted += change
            self._by_owner[owner] += change
            if not self._by_owner[owner]:
                del self._by_owner[owner]

    def _total(self) -> int:
        """All tokens of the tree's nodes; SGLang's numbers have the room of pages that are not full, too."""
        tree = self._tree
        return int(tree.evictable_size_ + tree.protected_size_) - len(tree.open_pages or ()) * tree.page_size

    def as_dict(self) -> Mapping[str, int]:
        """Tokens by the mark of each tenant that has any."""
        return dict(self._by_owner)


def tenant_of(extra_key: str | None) -> str | None:
    """Mark of the tenant in whose namespace KV is; None where it is no tenant's."""
    return owner_of(extra_key) or None
