"""``"model"`` of a call names a decode module, or the prefill module.

A loaded adapter's name or alias selects it, the served name the prefill module, anything else is 404 with the list, and
no name 400: across workers nobody could answer it. SGLang's form ``base:adapter`` is taken, too. What a name means is
said by :mod:`prefillshare.naming`, here as at a router.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from prefillshare.contract import ALIASES_VARIABLE, WARNINGS_VARIABLE
from prefillshare.naming.alias import AnyAlias, read_aliases
from prefillshare.naming.asked import Asked
from prefillshare.naming.names import Names

if TYPE_CHECKING:
    from sglang.srt.managers.tokenizer_manager import TokenizerManager

UPSTREAM_DEFAULT_MODEL = "default"
"""What SGLang fills in when the body has no ``model``."""


class ModelMissingError(LookupError):
    """The call names no model."""


def get_tokenizer_manager() -> TokenizerManager:
    """The one of this process's HTTP server; routes are functions, and have no other way to it."""
    from sglang.srt.entrypoints.http_server import get_global_state

    return get_global_state().tokenizer_manager


def served_names(tokenizer_manager: TokenizerManager) -> tuple[str, list[str]]:
    """Name of the prefill module and of every loaded decode module, in the order in which the engine was told them."""
    adapters = tokenizer_manager.lora_registry.get_all_adapters().values()
    # The registry keeps them by last use.
    order = [adapter.lora_name for adapter in tokenizer_manager.server_args.lora_paths or ()]
    modules = sorted(adapter.lora_name for adapter in adapters)
    return tokenizer_manager.served_model_name, sorted(modules, key=lambda name: _place(order, name))


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def module_names(tokenizer_manager: TokenizerManager) -> Names:
    """All names that this engine answers to."""
    base, modules = served_names(tokenizer_manager)
    return Names(base=base, modules=modules, aliases=aliases_of(tokenizer_manager))


def aliases_of(tokenizer_manager: TokenizerManager) -> Mapping[str, AnyAlias]:
    """Other names of decode modules, by name."""
    found: Mapping[str, AnyAlias] | None = getattr(tokenizer_manager, "prefillshare_aliases", None)
    if found is None:
        found = tokenizer_manager.prefillshare_aliases = read_aliases(json.loads(os.getenv(ALIASES_VARIABLE) or "{}"))
    return found


def set_aliases(tokenizer_manager: TokenizerManager, aliases: Mapping[str, AnyAlias]) -> None:
    """Let names mean other modules from now on."""
    tokenizer_manager.prefillshare_aliases = dict(aliases)


def module_warnings() -> dict[str, str]:
    """What is to be said of this engine's decode modules, by name; the launcher knows it."""
    warnings: dict[str, str] = json.loads(os.getenv(WARNINGS_VARIABLE) or "{}")
    return warnings


def resolve_adapter(model: str, prefill: str, modules: list[str]) -> str | None:
    """Decode module that ``model`` selects, None for the prefill module.

    Raises: LookupError with the list of names when it selects neither, ModelMissingError for SGLang's default.
    """
    return select_module(model, Names(base=prefill, modules=modules))


def select_module(model: str, names: Names) -> str | None:
    """``resolve_adapter`` among all names, aliases included."""
    found = names.find(Asked(name=model))
    if found is not None:
        return None if found == names.base else found
    known = ", ".join([*names.modules, f"{names.base} (prefill module)", *map(_describe_alias, names.aliases)])
    if model == UPSTREAM_DEFAULT_MODEL:
        raise ModelMissingError(f"model is missing: name one; this server has: {known}")
    raise LookupError(f"model {model!r} does not exist; this server has: {known}")


def _describe_alias(name: str) -> str:
    return f"{name} (alias)"


def resolve_or_404(tokenizer_manager: TokenizerManager, model: str) -> str | None:
    """``resolve_adapter`` for request handlers.

    Raises: HTTPException with the list of names, and status 400 for a missing name, 404 for an unknown one.
    """
    from fastapi import HTTPException

    try:
        return select_module(model, module_names(tokenizer_manager))
    except LookupError as error:
        status = 400 if isinstance(error, ModelMissingError) else 404
        raise HTTPException(status_code=status, detail=str(error)) from None
