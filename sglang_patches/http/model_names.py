"""``"model"`` of an OpenAI call names a decode module, or the prefill module.

Target: ``sglang.srt.entrypoints.openai.serving_base.OpenAIServingBase``, methods
    ``_resolve_lora_path`` and ``_compute_extra_key``
Why: SGLang answers every unknown name with the base model, so a typing error would
    silently bypass the decode module; an adapter needs the form ``base:adapter``.
    And it joins ``cache_salt`` and ``extra_key`` without a separator, so two salts
    can meet in one namespace (I7).
How: a loaded adapter's name selects it, the served name the prefill module, anything
    else is 404 with the list, and no name 400: across workers nobody could answer it. Salts are encoded so that
    different salts give different keys.
Upstream: sglang/srt/entrypoints/openai/serving_base.py:55,151 at 0.5.17.
Remove when: upstream resolves plain adapter names and rejects unknown models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from prefillshare.contract import WARNINGS_VARIABLE

UPSTREAM_DEFAULT_MODEL = "default"
"""What SGLang fills in when the body has no ``model``."""


class ModelMissingError(LookupError):
    """The call names no model."""


def served_names(tokenizer_manager: Any) -> tuple[str, list[str]]:
    """Name of the prefill module and of every loaded decode module, in the order in which the engine was told them."""
    adapters = tokenizer_manager.lora_registry.get_all_adapters().values()
    # The registry keeps them by last use.
    order = [adapter.lora_name for adapter in tokenizer_manager.server_args.lora_paths or ()]
    modules = sorted(adapter.lora_name for adapter in adapters)
    return tokenizer_manager.served_model_name, sorted(modules, key=lambda one: _place(order, one))


def _place(order: Sequence[str], name: str) -> int:
    return order.index(name) if name in order else len(order)


def module_warnings() -> dict[str, str]:
    """What is to be said of this engine's decode modules, by name; the launcher knows it."""
    warnings: dict[str, str] = json.loads(os.getenv(WARNINGS_VARIABLE) or "{}")
    return warnings


def resolve_adapter(model: str, prefill: str, modules: list[str]) -> str | None:
    """Decode module that ``model`` selects, None for the prefill module.

    Raises: LookupError with the list of names when it selects neither, ModelMissingError for SGLang's default.
    """
    base, _, adapter = model.partition(":")
    if adapter and base.strip() == prefill and adapter.strip() in modules:
        return adapter.strip()
    if model in modules:
        return model
    if model == prefill:
        return None
    known = ", ".join([*modules, f"{prefill} (prefill module)"])
    if model == UPSTREAM_DEFAULT_MODEL:
        raise ModelMissingError(f"model is missing: name one; this server has: {known}")
    raise LookupError(f"model {model!r} does not exist; this server has: {known}")


def resolve_or_404(tokenizer_manager: Any, model: str) -> str | None:
    """``resolve_adapter`` for request handlers.

    Raises: HTTPException with the list of names, and status 400 for a missing name, 404 for an unknown one.
    """
    from fastapi import HTTPException

    try:
        return resolve_adapter(model, *served_names(tokenizer_manager))
    except LookupError as error:
        status = 400 if isinstance(error, ModelMissingError) else 404
        raise HTTPException(status_code=status, detail=str(error)) from None


def wrap_resolve_lora_path(original: Callable[..., Any]) -> Callable[..., Any]:
    def _resolve_lora_path(self: Any, request_model: str, explicit_lora_path: Any) -> Any:
        selected = resolve_or_404(self.tokenizer_manager, request_model)
        return explicit_lora_path if selected is None else selected

    return _resolve_lora_path


def cache_namespace(cache_salt: str | None, extra_key: str | None) -> str | None:
    """One key for both; injective in the salt whatever the other one holds."""
    if not cache_salt:
        return extra_key or None
    return "salt:" + json.dumps([cache_salt, extra_key or ""])


def wrap_compute_extra_key(original: Callable[..., Any]) -> Callable[..., Any]:
    def _compute_extra_key(self: Any, request: Any) -> str | None:
        values = {name: getattr(request, name, None) for name in ("cache_salt", "extra_key")}
        for name, value in values.items():
            if value is not None and not isinstance(value, str):
                raise ValueError(f"{name} must be a string, got {value!r}")
        return cache_namespace(**values)

    return _compute_extra_key
