"""What an engine says of its modules, and a router of its aliases, once they have changed: small files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.naming.changes import Change, read_changes


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


def read_alias_changes(file: Path) -> dict[str, Change]:
    """Return what a router says in `file` that has changed about its aliases; nothing while they are its first ones."""
    try:
        return read_changes(json.loads(file.read_text(encoding="utf-8")))
    except OSError:
        return {}
