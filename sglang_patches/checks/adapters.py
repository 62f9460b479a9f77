"""Adapters that shared prefill cannot serve are refused when they are loaded.

Those of the start were checked by ``launch`` against the deployment file; those that come later stand in no file, so
they must say themselves that they were trained over this prefill module's KV. They are checked as at the start, twice:
in the HTTP process before anything changes (:mod:`sglang_patches.modules.changes`), and by the scheduler, which hears
of SGLang's own ``/load_lora_adapter`` alone (:mod:`sglang_patches.engine.lora_manager`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prefillshare.config.schema import DecodeModule, PrefillModule
from prefillshare.errors import ModuleError
from prefillshare.modules.adapter_config import check_adapter_config
from prefillshare.modules.added import AdapterRoom
from prefillshare.modules.deployment import CheckedBase, ResolvedModule, resolve_module
from prefillshare.modules.fingerprint import prefill_fingerprint
from sglang_patches.http.model_names import module_warnings
from sglang_patches.prefill.unshared import unshared_modules

if TYPE_CHECKING:
    from sglang.srt.server_args import ServerArgs

VERSION_MARK = "@"
"""Between the name of a module and a number, in the scheduler's name of an adapter; no module's name has it."""
EMBEDDING_TARGETS = frozenset({"embed_tokens", "lm_head"})


def embedding_targets(target_modules: object) -> set[str]:
    """Names in an adapter's ``target_modules`` that touch embedding or LM head."""
    if isinstance(target_modules, str):
        target_modules = [target_modules]
    names = {str(name).rsplit(".", 1)[-1] for name in target_modules or ()}  # type: ignore[attr-defined]
    return names & EMBEDDING_TARGETS


def check_adapter(target_modules: object, hf_config: Mapping[str, object], name: str) -> None:
    """Refuse an adapter by its configuration.

    Raises: ValueError or ModuleError naming it and what is wrong.
    """
    found = embedding_targets(target_modules)
    if found:
        raise ValueError(
            f"adapter {name} targets {', '.join(sorted(found))}: "
            "shared prefill supports adapters of attention and MLP projections "
            "only; retrain it without them"
        )
    check_adapter_config(hf_config, name)


def check_late_adapter(path: str | None, name: str) -> None:
    """What ``launch`` checks of the adapters in a deployment file, for one that is loaded into a running engine."""
    from sglang.srt.runtime_context import get_server_args

    if name in unshared_modules():
        raise ModuleError(
            f"adapter {name} has share = false in the deployment file, and the cache holds KV of the one loaded "
            "at the start: launch the deployment anew, or load it under another name"
        )
    if path is None:
        raise ModuleError(f"adapter {name} comes as tensors, so nobody knows how it was trained: load its directory")
    resolve_late(DecodeModule(name=name, kind="lora", path=Path(path)), get_server_args())


def resolve_late(spec: DecodeModule, args: ServerArgs) -> tuple[ResolvedModule, list[str]]:
    """Return a module that comes while this engine serves, and what is to be said of it.

    Raises: ModuleError for one that could not stand in the deployment file.
    """
    # What a deployment file lets in although it answers badly comes back by the same right.
    return resolve_module(replace(spec, accept_naive=spec.name in module_warnings()), _served_base(args))


def _served_base(args: ServerArgs) -> CheckedBase:
    path = Path(args.model_path)
    return CheckedBase(
        spec=PrefillModule(name=args.served_model_name or path.name, path=path),
        path=path,
        fingerprint=prefill_fingerprint(path),
        dtype="float32",  # of merged weights, which no adapter has
        on_gpu=False,  # forbids full weights in codebook form, which no adapter has
    )


def find_room(args: ServerArgs) -> AdapterRoom:
    """Return which adapters this engine was started for."""
    return AdapterRoom(max_rank=args.max_lora_rank, targets=sorted(args.lora_target_modules))
