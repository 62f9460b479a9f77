"""What pages of KV are called in the store: a chain of hashes from everything that decides what their bytes mean.

:func:`prefillshare.store.chain_keys` makes the chain; this is SGLang's way of asking for it: hexadecimal text, page by
page, each after the one before. The root of a tree carries its own (:mod:`sglang_patches.patches.node_hashes`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prefillshare.store import StoreIdentity, chain_keys

if TYPE_CHECKING:
    from sglang.srt.mem_cache.radix_cache import RadixKey


@dataclass(frozen=True, kw_only=True, slots=True)
class PageKeys:
    """The chains of one tree."""

    identity: StoreIdentity
    """What its KV is."""

    def of(self, key: RadixKey, parent: str | None) -> list[str]:
        """One name for each whole page of ``key``; ``parent`` is that of the page before, None at the beginning."""
        keys = chain_keys(
            self.identity,
            key.extra_key,
            key.raw_token_ids(),
            self.identity.page_size,
            parent=bytes.fromhex(parent) if parent else None,
        )
        return [page_key.hex() for page_key in keys]
