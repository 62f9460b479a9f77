"""Engines that can compute second rows; others are told so before they start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sglang_patches.icarus.modules import reads_base_kv_only

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

SUPPORTED = ("torch_native", "triton", "flashinfer")
"""Attention backends with a class for second rows."""
_RULE = 'kv_rule = "all-base"'


def refusals(args: ServerArgs) -> Iterator[str]:
    """One sentence with the fix where a module reads base-made KV only and would not, or not rightly, be asked."""
    if args.disaggregation_mode == "decode" and _is_of_that_rule(args.model_path):
        yield (
            f"the full weights in {args.model_path} say {_RULE}: the prefill module's weights have to be beside the "
            'module\'s for that, as they are beside an adapter; serve it with kind = "lora"'
        )
    modules = [ref.lora_name for ref in args.lora_paths or () if _is_of_that_rule(ref.lora_path)]
    if not modules:
        return
    for backend in sorted({*args.get_attention_backends()} - {*SUPPORTED}):
        yield (
            f"attention backend {backend} cannot serve module {modules[0]}, whose manifest says {_RULE}: set "
            f"attention_backend to {' or '.join(SUPPORTED)} under [engine], or leave it out"
        )


def _is_of_that_rule(path: str | None) -> bool:
    # A name at a hub is no directory: launch names directories only.
    return path is not None and Path(path).is_dir() and reads_base_kv_only(path)
