"""Whose pages these are, and the keys of a prompt's pages.

A key stands for all tokens up to the end of its page and for everything that changes the KV of them. So two
deployments, two ranks or two tenants cannot meet under one key, whatever folder they share.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from prefillshare.errors import StoreError

KEY_BYTES = 32
_FORMAT = b"prefillshare kv chain 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreIdentity:
    """Everything besides tokens and tenant that decides what the bytes of a page are."""

    prefill_fingerprint: str
    weights_dtype: str
    kv_dtype: str
    page_size: int
    layers: int
    kv_heads: int
    head_dim: int
    tp_rank: int
    tp_size: int
    layout: str
    """The host pool's: which order layers, tokens, keys and values have inside of a page."""
    sglang_version: str
    page_bytes: int

    def __post_init__(self) -> None:
        if self.page_bytes <= 0 or self.page_size <= 0:
            raise StoreError(f"a page of {self.page_size} tokens and {self.page_bytes} bytes cannot be kept")

    def digest(self) -> bytes:
        """SHA-256 over all of it: the root of every chain, and the name of the store's files."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).digest()


def chain_keys(
    identity: StoreIdentity,
    extra_key: str | None,
    token_ids: Sequence[int] | ArrayLike,
    page_size: int,
    *,
    parent: bytes | None = None,
) -> list[bytes]:
    """The key of each whole page of `token_ids`, in order; tokens of a last, partial page are left out.

    `parent` is the key of the page before the first token; identity and `extra_key` are inside of it already.
    """
    tokens = np.ascontiguousarray(token_ids, dtype="<i8")
    last = parent if parent is not None else _root(identity, extra_key)
    data, keys, step = tokens.data.cast("B"), [], page_size * tokens.itemsize
    for start in range(0, len(tokens) // page_size * step, step):
        hasher = hashlib.sha256(last)
        hasher.update(data[start : start + step])
        last = hasher.digest()
        keys.append(last)
    return keys


@lru_cache(maxsize=1024)
def _root(identity: StoreIdentity, extra_key: str | None) -> bytes:
    # No tenant differs from a tenant without a name.
    tenant = b"\x00" if extra_key is None else b"\x01" + extra_key.encode("utf-8", "surrogatepass")
    return hashlib.sha256(_FORMAT + identity.digest() + tenant).digest()
