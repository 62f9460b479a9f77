"""Engines that can compute second rows; others are told so before they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefillshare.errors import ModuleError

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

SUPPORTED = ("torch_native",)
"""Attention backends with a class for it."""


def check_engine(runner: ModelRunner) -> None:
    """Refuse what has no second rows.

    Raises: ModuleError.
    """
    args = runner.server_args
    for backend in args.get_attention_backends():
        if backend not in SUPPORTED:
            raise ModuleError(
                f'attention backend {backend} cannot serve modules with kv_rule = "all-base": set '
                f"attention_backend to {' or '.join(SUPPORTED)} under [engine], or leave these modules out"
            )
