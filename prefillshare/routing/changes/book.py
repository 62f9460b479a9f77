"""The aliases of one router, and what has changed about them while it serves.

Of several routers whichever is told tells the others, and one that was away hears of all changes. They outlive the
process with their versions: one that comes back with what it knew is not taken for one that knows better.
"""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from prefillshare.errors import ConfigError, ModuleError
from prefillshare.modules.heads import read_told_classifier
from prefillshare.naming.alias import AnyAlias, as_table, check_aliases, read_alias
from prefillshare.naming.changes import (
    Change,
    Changes,
    Version,
    changes_as_dict,
    in_order,
    read_changes,
)
from prefillshare.routing.changes.desk import ChangeRefusedError, write_or_refuse
from prefillshare.routing.errors import BadCallError


class AliasBook:
    """The aliases of one router; `aliases` is what it answers by."""

    def __init__(
        self, aliases: Mapping[str, AnyAlias], own_address: str, file: Path | None, changes: Changes | None = None
    ) -> None:
        """`aliases` are as they are now, `changes` what was changed about those of the deployment file before.

        `file` keeps changes for this router's next life, and for whoever started it; None keeps them nowhere.
        """
        self._changes = dict(changes or {})
        self.aliases = dict(aliases)
        self._own = own_address
        self._file = file

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
        try:
            changes = read_changes(told)
        except ConfigError as error:
            raise BadCallError(str(error)) from None
        return {name: change for name, change in in_order(changes) if self._is_later(name, change)}

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
        return changes_as_dict(self._changes)

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
        changes = {**self._changes, name: change}
        if self._file is not None:
            write_or_refuse(self._file, changes_as_dict(changes))
        self._changes = changes
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
