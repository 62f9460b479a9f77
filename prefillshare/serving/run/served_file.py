"""What an engine says of its modules, and a router of its aliases, once they have changed: small files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """What an engine serves beside its prefill module."""

    paths: Mapping[str, str]
    """Directory of each decode module by name."""
    aliases: Mapping[str, Any]
    """Other names of these, as a deployment file has them."""


def read_served(file: Path) -> Served | None:
    """Return what the engine says; None while its modules are those that it was started with."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return Served(paths=content["modules"], aliases=content["aliases"])


def read_aliases_file(file: Path) -> tuple[str, ...] | None:
    """Return the aliases that a router has left in `file`; None while they are those that it was launched with."""
    try:
        return tuple(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
