"""Modules that compute their prompts themselves (``share = false`` in the deployment file).

Such an adapter was trained the ordinary way: all KV of its calls, the prompt's too, is made with its weights, and is
nobody else's. It lies in the same tree in a namespace of the adapter's own: ``extra_key`` begins with ``MARK`` and the
adapter's hash, the caller's own key follows. The HTTP process writes it there before anything reads the namespace; the
scheduler, the admission to memory and the store need to know nothing more, and what a store has of the module is found
again after a restart.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from prefillshare.contract import UNSHARED_VARIABLE

if TYPE_CHECKING:
    from sglang.srt.lora.lora_registry import LoRARef

MARK = "unshared:"
"""Begin of the namespaces of such modules; callers may not give one that begins so."""


def unshared_modules() -> dict[str, str]:
    """Hash of the adapter of each such module of this engine, by the module's name; the launcher knows them."""
    modules: dict[str, str] = json.loads(os.getenv(UNSHARED_VARIABLE) or "{}")
    return modules


def hashes_by_id(adapters: Mapping[str, LoRARef]) -> dict[str, str]:
    """Hash of the adapter of each such module, by the id that the engine gave it."""
    return {adapters[name].lora_id: sha256 for name, sha256 in unshared_modules().items() if name in adapters}


def own_namespace(kv_sha256: str, extra_key: str | None) -> str:
    """Namespace of a module's calls that have the given key."""
    return f"{MARK}{kv_sha256}:{extra_key or ''}"


def is_unshared(extra_key: str | None) -> bool:
    """Whether KV in a namespace is made by such a module."""
    return extra_key is not None and extra_key.startswith(MARK)


def callers_key(namespace: str) -> str | None:
    """The key that a caller of such a module gave: the namespace where a shared module would look."""
    return namespace.removeprefix(MARK).partition(":")[2] or None


def refuse_mark(extra_key: str) -> None:
    """Raise ValueError for a caller's key that would reach into a module's own namespace."""
    if is_unshared(extra_key):
        raise ValueError(f"extra_key begins with {MARK!r}, which this server uses itself: give another one")
