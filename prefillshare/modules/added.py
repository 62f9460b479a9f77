"""A decode module that comes while its deployment serves: what is asked over HTTP, and the room for adapters.

The body of `PUT /modules/NAME` is a `[[decode]]` table without the name, as JSON. Its path is one of the machine that
serves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.config.schema import DecodeModule
from prefillshare.config.tables import build
from prefillshare.errors import ConfigError, ModuleError, short_repr
from prefillshare.modules.deployment import ResolvedModule

_ADAPTER_CONFIG, _CONFIG = "adapter_config.json", "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRoom:
    """Which adapters an engine that runs has room for."""

    max_rank: int
    """Largest rank."""
    targets: Sequence[str]
    """Layers that may have an adapter."""


def read_added(name: str, table: object) -> DecodeModule:
    """Return the module that a body describes; `kind` follows from the directory where it is left out.

    Raises: ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError('the body must be a JSON object with path, such as {"path": "/models/math-v2"}')
    if (other := table.get("name")) not in (None, name):
        raise ConfigError(
            f"the body has the name {short_repr(other)} and the address {name!r}: leave it out of the body"
        )
    given = {"kind": _find_kind(table.get("path")), **{key: value for key, value in table.items() if value is not None}}
    module = build(DecodeModule, {**given, "name": name}, "the body")
    if module.path is not None and not module.path.is_absolute():
        raise ConfigError(f"path {str(module.path)!r} is relative: write the whole path, as the server has it")
    if module.path is not None and not module.path.is_dir():
        raise ConfigError(f"path {str(module.path)!r} is no directory of the server's machine: correct path")
    if module.path is not None and not any((module.path / name).is_file() for name in (_ADAPTER_CONFIG, _CONFIG)):
        raise ConfigError(
            f"{module.path} holds no decode module (neither {_ADAPTER_CONFIG}, as of an adapter, nor {_CONFIG}, as of "
            "whole weights): give the directory of one"
        )
    return module


def _find_kind(path: object) -> str:
    return "lora" if not isinstance(path, str) or (Path(path) / _ADAPTER_CONFIG).is_file() else "full"


def check_room(module: ResolvedModule, room: AdapterRoom) -> None:
    """Check that an engine that runs can take an adapter.

    Raises: ModuleError with what it has room for, and where more is asked for.
    """
    adapter, name = module.adapter, module.spec.name
    if adapter is None:
        return
    if adapter.rank > room.max_rank:
        raise ModuleError(
            f"adapter {name!r} has rank {adapter.rank}, and this engine was started for ranks up to {room.max_rank}: "
            f"write max_rank = {adapter.rank} under [modules] of the deployment file and launch it anew"
        )
    if missing := [target for target in adapter.target_modules if target not in room.targets]:
        targets = ", ".join(f'"{target}"' for target in sorted({*room.targets, *missing}))
        raise ModuleError(
            f"adapter {name!r} changes {', '.join(missing)}, and this engine was started for adapters of "
            f"{', '.join(room.targets)}: write targets = [{targets}] under [modules] of the deployment file and launch "
            "it anew"
        )


def describe_added(module: ResolvedModule, warnings: Sequence[str], seconds: float) -> dict[str, Any]:
    """Return the answer to whoever added or reloaded a module."""
    return {
        "name": module.spec.name,
        "kind": module.spec.kind,
        "path": str(module.path),
        "warnings": list(warnings),
        "seconds": round(seconds, 3),
    }
