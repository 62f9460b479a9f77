"""Modules whose KV is all the prefill module's (rule "all-base", ICaRus): what they can be, where they can be served.

Such a module computes one row per token beside the base's row, which makes the KV. So the base's own weights must be
where it is served, and what it changes of keys and values is never read.
"""

from prefillshare.config.training import KV_PROJECTIONS
from prefillshare.errors import ModuleError
from prefillshare.modules.adapter import Adapter
from prefillshare.modules.adapter_files import WEIGHTS_NAME, is_all_zero
from prefillshare.modules.fingerprint import tensor_entries
from prefillshare.modules.manifest import ModuleManifest

_NEEDS_BASE = (
    "was trained over KV that is all made with the base's weights (kv_rule all-base), which a module with full weights "
    "does not hold"
)


def refuse_full_weights(manifest: ModuleManifest | None, name: str, fix: str) -> None:
    """Raise ModuleError for a module of rule "all-base" that is to have full weights."""
    if manifest is not None and manifest.kv_rule == "all-base":
        raise ModuleError(f"module {name!r} {_NEEDS_BASE}: {fix}")


def check_no_kv_matrices(adapter: Adapter, name: str) -> None:
    """Raise ModuleError when an adapter of rule "all-base" changes keys or values; matrices of zeros change nothing."""
    entries = {entry.name: entry for entry in tensor_entries([adapter.path / WEIGHTS_NAME])}
    for layer in adapter.layers:
        if layer.rpartition(".")[2] not in KV_PROJECTIONS:
            continue
        sides = (entries[f"base_model.model.{layer}.lora_{side}.weight"] for side in "AB")
        # The product B A is what changes the layer.
        if not any(is_all_zero(entry) for entry in sides):
            raise ModuleError(
                f"module {name!r} changes {layer}, and its manifest says kv_rule all-base, where keys and values are "
                "all the base's and this would silently have no effect: train it without k_proj and v_proj"
            )
