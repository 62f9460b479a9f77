"""The aliases of one router, and what has changed about them while it serves.

Of several routers whichever is told tells the others. Each changed name has the version of its last change, one that
was removed as well: of two changes of a name the later one counts, and of two at once that of the greater address. So
all routers end with the same aliases, in whatever order they hear of changes, and one that was away hears of all.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from prefillshare.errors import ConfigError, ModuleError
from prefillshare.modules.heads import read_told_classifier
from prefillshare.naming.alias import AnyAlias, as_table, check_aliases, read_alias
from prefillshare.routing.changes.desk import ChangeRefusedError, write_or_refuse
from prefillshare.routing.errors import BadCallError


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """When a name was changed."""

    number: int
    """Milliseconds since 1970, or more: greater than that of every change that its router knew."""
    router: str
    """Address of the router that was told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """The last change of one name."""

    version: Version
    """When."""
    meaning: Any
    """As a deployment file has it; None for a name that was removed."""


class AliasBook:
    """The aliases of one router; `aliases` is what it answers by."""

    def __init__(self, aliases: dict[str, AnyAlias], own_address: str, file: Path | None) -> None:
        """`file` keeps them for this router's next life and for `prefillshare ps`; None keeps them nowhere."""
        self.aliases = aliases
        self._own = own_address
        self._file = file
        self._changes: dict[str, Change] = {}

    def change(self, name: str, alias: AnyAlias | None) -> None:
        """Let a name mean something else, or nothing with None; the caller has checked it.

        Raises: ChangeRefusedError when it cannot be kept; nothing has changed then.
        """
        latest = max((change.version.number for change in self._changes.values()), default=0)
        # With a clock behind it, a router that was started again is not behind what the others remember.
        number = max(latest + 1, time.time_ns() // 10**6)
        meaning = None if alias is None else as_table({name: alias})[name]
        self._apply(name, alias, Change(version=Version(number, self._own), meaning=meaning))

    def later(self, told: object) -> dict[str, Change]:
        """Return what another router tells, as far as it is later than what is known here, in the order in which it was
        made: rules may mean an alias that came before them.

        Raises: BadCallError when it tells nothing of the kind.
        """
        changes = sorted(_read_changes(told).items(), key=lambda item: item[1].version)
        return {name: change for name, change in changes if self._is_later(name, change)}

    def take(
        self, told: Mapping[str, Change], read: Mapping[str, AnyAlias], base: str, modules: tuple[str, ...]
    ) -> tuple[bool, dict[str, str]]:
        """Take changes of other routers; return whether anything has changed, and what was refused.

        `told` comes from `later`, maybe some time ago; `read` are its aliases as this router has read them.
        """
        refused, has_changed = {}, False
        for name, change in told.items():
            if (change.meaning is not None and name not in read) or not self._is_later(name, change):
                continue
            try:
                self._check(name, read.get(name), base, modules)
                self._apply(name, read.get(name), change)
                has_changed = True
            except (ConfigError, ChangeRefusedError) as error:
                refused[name] = str(error)
        return has_changed, refused

    def _is_later(self, name: str, change: Change) -> bool:
        return name not in self._changes or self._changes[name].version < change.version

    def as_dict(self) -> dict[str, Any]:
        """Return every change, as another router takes it."""
        return {
            name: [change.version.number, change.version.router, change.meaning]
            for name, change in self._changes.items()
        }

    def digest(self) -> str:
        """Return text that is the same for routers with the same changes; empty where nothing was changed."""
        if not self._changes:
            return ""
        return hashlib.sha256(orjson.dumps(self.as_dict(), option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]

    def _check(self, name: str, alias: AnyAlias | None, base: str, modules: tuple[str, ...]) -> None:
        others = {other: kept for other, kept in self.aliases.items() if other != name}
        check_aliases(others if alias is None else {**others, name: alias}, base, modules)

    def _apply(self, name: str, alias: AnyAlias | None, change: Change) -> None:
        aliases = {other: kept for other, kept in self.aliases.items() if other != name}
        if alias is not None:
            aliases[name] = alias
        if self._file is not None:
            write_or_refuse(self._file, as_table(aliases))
        self._changes[name] = change
        self.aliases.clear()
        self.aliases.update(aliases)


def read_told(told: Mapping[str, Change], fingerprint: str | None) -> tuple[dict[str, AnyAlias], dict[str, str]]:
    """Return the aliases that other routers tell of, with the classifiers that lie here, and why others cannot be read.

    Effects: reads files.
    """
    found, refused = {}, {}
    for name, change in told.items():
        try:
            if change.meaning is not None:
                found[name] = read_told_classifier(read_alias(name, change.meaning), fingerprint)
        except (ConfigError, ModuleError) as error:
            refused[name] = str(error)
    return found, refused


def _read_changes(told: object) -> dict[str, Change]:
    items: Iterable[tuple[Any, Any]] = told.items() if isinstance(told, Mapping) else [("", None)]
    try:
        return {
            str(name): Change(version=Version(int(number), str(router)), meaning=meaning)
            for name, (number, router, meaning) in items
        }
    except (TypeError, ValueError):
        raise BadCallError("aliases is no object of changes, each [number, router, meaning]: send such a one") from None
