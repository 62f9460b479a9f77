"""Adapters that shared prefill cannot serve are refused when they are loaded.

Target: ``sglang.srt.lora.lora_manager.LoRAManager.validate_new_adapter`` and
    ``LoRAManager.init_lora_modules``
Why: an adapter of the embedding or of the LM head, or one on mixture-of-experts
    layers, reads its batch layout from metadata that is per request, not per
    segment: it would be applied to the wrong tokens without a word. And SGLang
    ignores what it does not know in an adapter's configuration and directory.
How: checked before the original looks at the adapter's shape. Those of the start
    were checked by ``launch`` against the deployment file; those that come later
    (``/load_lora_adapter``) stand in no file, so they must say themselves that they
    were trained over this prefill module's KV.
Upstream: sglang/srt/lora/lora_manager.py:224,846 at 0.5.17.
Remove when: the three are verified against the reference computation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.modules.adapter_config import check_adapter_config
from prefillshare.modules.fingerprint import prefill_fingerprint
from prefillshare.modules.manifest import read_manifest

EMBEDDING_TARGETS = frozenset({"embed_tokens", "lm_head"})


def embedding_targets(target_modules: object) -> set[str]:
    """Names in an adapter's ``target_modules`` that touch embedding or LM head."""
    if isinstance(target_modules, str):
        target_modules = [target_modules]
    names = {str(name).rsplit(".", 1)[-1] for name in target_modules or ()}  # type: ignore[attr-defined]
    return names & EMBEDDING_TARGETS


def wrap_validate_new_adapter(original: Callable[..., None]) -> Callable[..., None]:
    def validate_new_adapter(self: Any, lora_config: Any, lora_ref: Any) -> None:
        found = embedding_targets(lora_config.target_modules)
        if found:
            raise ValueError(
                f"adapter {lora_ref.lora_name} targets {', '.join(sorted(found))}: "
                "shared prefill supports adapters of attention and MLP projections "
                "only; retrain it without them"
            )
        check_adapter_config(lora_config.hf_config, lora_ref.lora_name)
        if getattr(self, "memory_pool", None) is not None:
            _check_late_adapter(lora_config.path, lora_ref.lora_name)
        original(self, lora_config, lora_ref)

    return validate_new_adapter


def _check_late_adapter(path: str | None, name: str) -> None:
    """What ``launch`` checks of the adapters in a deployment file, for one that is loaded into a running engine."""
    from sglang.srt.runtime_context import get_server_args

    base = Path(get_server_args().model_path)
    manifest = read_manifest(Path(path)) if path and Path(path).is_dir() else None
    if path is None or manifest is None or manifest.objective != "cache-conditioned":
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


def wrap_init_lora_modules(original: Callable[..., None]) -> Callable[..., None]:
    def init_lora_modules(self: Any) -> None:
        original(self)
        if self.lora_backend.is_moe_lora:
            raise RuntimeError(
                "adapters of mixture-of-experts layers are not supported by shared "
                "prefill yet: leave the experts out of --lora-target-modules"
            )

    return init_lora_modules
