"""Engines that can compute second rows; others are told so when they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.errors import ModuleError

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

SUPPORTED = ("torch_native",)
"""Attention backends with a class for second rows."""


def check_engine(args: ServerArgs, *, has_latent_kv: bool) -> None:
    """Refuse to start where second rows would not be computed, or wrongly.

    Raises: ModuleError.
    """
    found = sorted({*args.get_attention_backends()} - {*SUPPORTED})
    if found:
        raise ModuleError(
            f'attention backend {found[0]} cannot serve modules with kv_rule = "all-base": set attention_backend to '
            f"{' or '.join(SUPPORTED)} under [engine], or leave these modules out"
        )
    if has_latent_kv:
        raise ModuleError(
            'modules with kv_rule = "all-base" are not supported over models with latent attention yet: leave them out'
        )
