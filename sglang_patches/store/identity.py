"""What the pages of an engine's KV are, and which store they go to: the same for all workers of a deployment.

A prefill worker and a decode worker name a page alike only if every field here is equal, so both ask this file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from prefillshare.contract import FINGERPRINT_VARIABLE
from prefillshare.store import StoreIdentity, StoreSettings
from sglang_patches.fingerprint import PINNED_SGLANG


class KvPool(Protocol):
    """The part of SGLang's pool of plain KV that decides what a page is."""

    dtype: torch.dtype
    store_dtype: torch.dtype
    layer_num: int
    head_num: int
    head_dim: int


def identify(
    pool: KvPool, *, weights: str, page_size: int, layout: str, tp_rank: int, tp_size: int, token_bytes: int
) -> StoreIdentity:
    """What one rank's pages are; ``weights`` turns the prefill module on disk into those that make KV."""
    return StoreIdentity(
        prefill_fingerprint=os.environ[FINGERPRINT_VARIABLE],
        weights_dtype=weights,
        # Types of 8 bits all lie in bytes.
        kv_dtype=str(pool.dtype),
        page_size=page_size,
        layers=pool.layer_num,
        kv_heads=pool.head_num,
        head_dim=pool.head_dim,
        tp_rank=tp_rank,
        tp_size=tp_size,
        layout=layout,
        sglang_version=PINNED_SGLANG,
        page_bytes=token_bytes * page_size,
    )


def read_settings(told: Mapping[str, Any]) -> StoreSettings:
    """The store that the launcher tells an engine of."""
    directory = told["directory"]
    return StoreSettings(**{**told, "directory": Path(directory) if directory is not None else None})
