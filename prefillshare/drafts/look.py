"""What lies where a module should be, as far as it is on this machine."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefillshare.errors import ModuleError
from prefillshare.modules.manifest import read_manifest

Content = Literal["adapter", "model", "nothing", "something else"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was found."""

    content: Content
    """`nothing`: there is no such directory."""
    shares: bool = False
    """Whether it was trained over another module's KV, as its manifest says."""
    base: str | None = None
    """For an adapter, the base that it names."""


def look_at(path: Path) -> Seen:
    """Return what the directory holds; nothing of it is checked beyond that."""
    try:
        if not path.is_dir():
            return Seen(content="something else" if path.exists() else "nothing")
    except OSError:  # no file system takes such a path, or it is not ours to look at
        return Seen(content="nothing")
    if (path / "adapter_config.json").is_file():
        return Seen(content="adapter", shares=_shares_prefill(path), base=_base_of(path))
    if (path / "config.json").is_file():
        return Seen(content="model", shares=_shares_prefill(path))
    return Seen(content="something else")


def _shares_prefill(path: Path) -> bool:
    try:
        manifest = read_manifest(path)
    except ModuleError:
        return False
    return manifest is not None and manifest.shares_prefill


def _base_of(path: Path) -> str | None:
    try:
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None
