"""Adapters that shared prefill cannot serve are refused when they are loaded.

Those of the start were checked by ``launch`` against the deployment file; those that come later
(``/load_lora_adapter``) stand in no file, so they must say themselves that they were trained over this prefill
module's KV. :mod:`sglang_patches.engine.lora_manager` asks both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.modules.adapter_config import check_adapter_config
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest
from sglang_patches.prefill.unshared import unshared_modules

EMBEDDING_TARGETS = frozenset({"embed_tokens", "lm_head"})


def embedding_targets(target_modules: object) -> set[str]:
    """Names in an adapter's ``target_modules`` that touch embedding or LM head."""
    if isinstance(target_modules, str):
        target_modules = [target_modules]
    names = {str(name).rsplit(".", 1)[-1] for name in target_modules or ()}  # type: ignore[attr-defined]
    return names & EMBEDDING_TARGETS


def check_adapter(target_modules: object, hf_config: Mapping[str, object], name: str) -> None:
    """Refuse an adapter by its configuration.

    Raises: ValueError or ModuleError naming it and what is wrong.
    """
    found = embedding_targets(target_modules)
    if found:
        raise ValueError(
            f"adapter {name} targets {', '.join(sorted(found))}: "
            "shared prefill supports adapters of attention and MLP projections "
            "only; retrain it without them"
        )
    check_adapter_config(hf_config, name)


def check_late_adapter(path: str | None, name: str) -> None:
    """What ``launch`` checks of the adapters in a deployment file, for one that is loaded into a running engine."""
    from sglang.srt.runtime_context import get_server_args

    if name in unshared_modules():
        raise ModuleError(
            f"adapter {name} has share = false in the deployment file, and the cache holds KV of the one loaded "
            "at the start: launch the deployment anew, or load it under another name"
        )
    base = Path(get_server_args().model_path)
    manifest = read_manifest(Path(path)) if path and Path(path).is_dir() else None
    if path is None or manifest is None or not manifest.shares_prefill:
        raise ModuleError(
            f"adapter {name} does not say that it was trained over the prefill module's KV (prefillshare.json) and "
            "would answer badly: train it so, or name it in the deployment file with accept_naive = true"
        )
    if manifest.prefill_fingerprint != prefill_fingerprint(base):
        raise ModuleError(
            f"adapter {name} was trained on another prefill module than the one at {base}: load it where that one is "
            "served"
        )
    check_adapter_fits(read_adapter(Path(path), name), base, name, base.name)
