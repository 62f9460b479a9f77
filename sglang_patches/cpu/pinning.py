"""Pinned host memory is plain host memory when there is no accelerator.

Target: ``torch`` as seen by ``sglang.srt.lora.layers``, ``lora.lora``,
    ``lora.backend.torch_backend`` and ``constrained.xgrammar_backend``.
Why: these pin small host tensors unconditionally; without a driver each such call
    raises.
How: those modules' name ``torch`` is bound to a thin view of the module whose
    factories drop ``pin_memory``; ``Tensor.pin_memory`` returns the tensor itself.
Upstream: those modules at 0.5.17.
Remove when: upstream asks ``is_pin_memory_available()`` there, as ``lora/mem_pool.py``
    does.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from sglang_patches.declarations import wraps_upstream

FACTORIES = frozenset({"tensor", "zeros", "ones", "full", "empty", "arange"})


_RAISES = "pinned factories raise without a driver"


@wraps_upstream("lora.layers:torch", "cf1070d3a16f24b2", _RAISES)
@wraps_upstream("lora.lora:torch", "cf1070d3a16f24b2", _RAISES)
@wraps_upstream("lora.backend.torch_backend:torch", "cf1070d3a16f24b2", _RAISES)
@wraps_upstream("constrained.xgrammar_backend:torch", "cf1070d3a16f24b2", _RAISES)
class UnpinnedTorch:
    """The ``torch`` module, but its tensor factories ignore ``pin_memory``."""

    def __init__(self, torch: ModuleType) -> None:
        self._torch = torch

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._torch, name)
        if name in FACTORIES:
            attribute = _without_pinning(attribute)
        setattr(self, name, attribute)
        return attribute


def _without_pinning(factory: Callable[..., Any]) -> Callable[..., Any]:
    def unpinned(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        return factory(*args, **kwargs)

    return unpinned


@wraps_upstream("torch:Tensor.pin_memory", None, "pinning raises without a driver")
def keep_in_place(original: Callable[..., Any]) -> Callable[..., Any]:
    """Replacement for ``torch.Tensor.pin_memory``."""

    def pin_memory(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self

    return pin_memory
