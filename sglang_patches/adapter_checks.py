"""Adapters that shared prefill cannot serve are refused when they are loaded.

Target: ``sglang.srt.lora.lora_manager.LoRAManager.validate_new_adapter`` and
    ``LoRAManager.init_lora_modules``
Why: an adapter of the embedding or of the LM head, or one on mixture-of-experts
    layers, reads its batch layout from metadata that is per request, not per
    segment: it would be applied to the wrong tokens without a word.
How: checked before the original looks at the adapter's shape; also covers
    ``/load_lora_adapter`` at run time.
Upstream: sglang/srt/lora/lora_manager.py:224,846 at 0.5.17.
Remove when: the three are verified against the reference computation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
        original(self, lora_config, lora_ref)

    return validate_new_adapter


def wrap_init_lora_modules(original: Callable[..., None]) -> Callable[..., None]:
    def init_lora_modules(self: Any) -> None:
        original(self)
        if self.lora_backend.is_moe_lora:
            raise RuntimeError(
                "adapters of mixture-of-experts layers are not supported by shared "
                "prefill yet: leave the experts out of --lora-target-modules"
            )

    return init_lora_modules
