"""How a file of ours says what it changes in SGLang, in words that are read without running it.

Code, reason and check stand together, as decorators whose arguments are literals:

    @binds("lora.lora_manager:LoRAManager", at=("model_executor.model_runner",))
    class LoRAManager(upstream.LoRAManager):
        @overrides("6717dd923e136d9a", "prompts would be prefilled with the adapter")
        def prepare_lora_batch(self, forward_batch): ...

    @wraps_upstream("server_args:ServerArgs.check_server_args", "1d7d36420d953c33", "unsupported settings would ...")
    def wrap_check_server_args(original): ...

    RELIED_ON = {"mem_cache.radix_cache:RadixKey": ("dcee2fbb2cec9878", "row ownership ...")}

Upstream names are ``module:name``, the module one below ``sglang.srt``. At run time the decorators do nothing;
:mod:`sglang_patches.reading` reads them with ``ast``, because a file with a subclass cannot be imported before SGLang
is, and everything is checked before that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

_Declared = TypeVar("_Declared")


def binds(upstream: str, *, at: tuple[str, ...] = ()) -> Callable[[_Declared], _Declared]:
    """This subclass takes the place of ``upstream``, where that is defined and in the modules ``at`` that import it."""
    return _as_it_is


def overrides(fingerprint: str, why: str, *, of: str | None = None) -> Callable[[_Declared], _Declared]:
    """This method overrides one of the upstream class whose text has ``fingerprint``.

    ``why`` says what would go wrong without it; ``of`` names the method where the upstream class inherits it.
    """
    return _as_it_is


def wraps_upstream(upstream: str, fingerprint: str | None, why: str) -> Callable[[_Declared], _Declared]:
    """This function makes from ``upstream`` what takes its place; the fingerprint is None for what is not SGLang's."""
    return _as_it_is


def registers(registry: str, key: str, *, by: str, fingerprint: str, why: str) -> Callable[[_Declared], _Declared]:
    """This object is entered under ``key`` in upstream's dictionary ``registry``, as its function ``by`` would do."""
    return _as_it_is


def registers_forward(op: str, fingerprint: str, why: str) -> Callable[[_Declared], _Declared]:
    """This function computes the operator class ``op`` on our platform; ``fingerprint`` is its ``forward_native``'s."""
    return _as_it_is


def subclasses(upstream: str) -> Callable[[_Declared], _Declared]:
    """This subclass of ``upstream`` takes its place by a registration, not by its name."""
    return _as_it_is


def _as_it_is(declared: _Declared) -> _Declared:
    return declared
