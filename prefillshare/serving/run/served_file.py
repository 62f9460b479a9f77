"""What an engine says of its modules, and a router of its aliases, once they have changed: small files."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedNames:
    """The names that an engine answers to, beside that of its prefill module."""

    modules: tuple[str, ...]
    """Decode modules."""
    aliases: tuple[str, ...]
    """Other names of these."""

    @property
    def names(self) -> tuple[str, ...]:
        """Both."""
        return (*self.modules, *self.aliases)


def read_served(file: Path) -> ServedNames | None:
    """Return what the engine says; None while its modules are those that it was launched with."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return ServedNames(modules=tuple(content["modules"]), aliases=tuple(content["aliases"]))


def read_aliases_file(file: Path) -> tuple[str, ...] | None:
    """Return the aliases that a router has left in `file`; None while they are those that it was launched with."""
    try:
        return tuple(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
