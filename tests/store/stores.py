"""What the tests of the store share: identities, pages, stores in folders of their own."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefillshare.store import KvStore, StoreIdentity, StoreSettings, chain_keys

PAGE_BYTES = 4096
PAGE_TOKENS = 16


def identity(**changed: object) -> StoreIdentity:
    """An identity that is like others but for what is named."""
    values: dict[str, object] = {
        "prefill_fingerprint": "0123abcd",
        "weights_dtype": "float32",
        "kv_dtype": "float32",
        "page_size": PAGE_TOKENS,
        "layers": 2,
        "kv_heads": 2,
        "head_dim": 8,
        "tp_rank": 0,
        "tp_size": 1,
        "layout": "page_first",
        "sglang_version": "0.5.17",
        "page_bytes": PAGE_BYTES,
    }
    return StoreIdentity(**(values | changed))  # type: ignore[arg-type]


def settings(memory: Path, **changed: object) -> StoreSettings:
    """A store of 2 MB below `memory`."""
    values: dict[str, object] = {"name": "tests", "memory_bytes": 2 << 20, "memory_directory": memory}
    return StoreSettings(**(values | changed))  # type: ignore[arg-type]


def chain(num_pages: int, *, of: int = 0, extra_key: str | None = None) -> list[bytes]:
    """Keys of a chain; chains with another `of` share no page."""
    tokens = np.arange(num_pages * PAGE_TOKENS) + 1_000_000 * of
    return chain_keys(identity(), extra_key, tokens, PAGE_TOKENS)


def page(key: bytes, num_bytes: int = PAGE_BYTES) -> NDArray[np.uint8]:
    """The one right content of a key's page: what a store may return for it, and nothing else."""
    generator = np.random.Generator(np.random.SFC64(int.from_bytes(key[:8], "little")))
    return generator.integers(0, 256, num_bytes, dtype=np.uint8)


def pages(keys: list[bytes]) -> list[NDArray[np.uint8]]:
    """The right pages of keys."""
    return [page(key) for key in keys]


def read(store: KvStore, keys: list[bytes]) -> int:
    """How many pages the store gives; every one of them is the right one."""
    into = [np.full(PAGE_BYTES, 0xEE, dtype=np.uint8) for _ in keys]
    num_read = store.read(keys, into)
    for key, came in zip(keys[:num_read], into, strict=False):
        assert came.tobytes() == page(key).tobytes()
    return num_read
