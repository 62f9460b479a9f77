"""Which adapters of this engine read base-made KV at every position.

Trained as in arXiv 2603.13281: everything a request computes is the prefill module's, and the adapter has a row of its
own for the token that is sampled from (:mod:`sglang_patches.icarus.rows`). Their manifest says so
(``kv_rule = "all-base"``); it is read when an adapter is loaded (:mod:`sglang_patches.engine.lora_manager`).
"""

from __future__ import annotations

from pathlib import Path

from prefillshare.modules.manifest import read_manifest


class PairedModules:
    """Ids of the adapters whose requests have two rows; of one scheduler process, whose thread alone adds them.

    An id is never given to another adapter, so one that is unloaded may stay.
    """

    def __init__(self) -> None:
        self._ids: set[str] = set()

    def add(self, lora_id: str) -> None:
        self._ids.add(lora_id)

    def __contains__(self, lora_id: str | None) -> bool:
        return lora_id in self._ids

    def __bool__(self) -> bool:
        return bool(self._ids)


paired_modules = PairedModules()
"""Shared because SGLang makes a request without telling it of the engine: ``Req.__init__`` must know its rule."""


def reads_base_kv_only(path: str | None) -> bool:
    """Whether the adapter in a directory says that KV of every position has to be the prefill module's."""
    manifest = read_manifest(Path(path)) if path else None
    return manifest is not None and manifest.kv_rule == "all-base"
