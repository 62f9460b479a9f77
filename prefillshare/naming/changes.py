"""What has changed about aliases since a deployment was started: the last change of each name, with its version.

A name that was removed has one as well: of two changes of a name the later one counts, and of two at once that of the
greater address. So whoever hears of all changes ends with the same aliases, in whatever order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias, read_alias


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


Changes = Mapping[str, Change]
"""By name."""


def read_changes(told: object) -> dict[str, Change]:
    """Return the changes in a JSON document.

    Raises: ConfigError.
    """
    items: Iterable[tuple[Any, Any]] = told.items() if isinstance(told, Mapping) else [("", None)]
    try:
        return {
            str(name): Change(version=Version(int(number), str(router)), meaning=meaning)
            for name, (number, router, meaning) in items
        }
    except (TypeError, ValueError):
        raise ConfigError("aliases is no object of changes, each [number, router, meaning]: send such a one") from None


def changes_as_dict(changes: Changes) -> dict[str, Any]:
    """Return the document that `read_changes` reads."""
    return {name: [change.version.number, change.version.router, change.meaning] for name, change in changes.items()}


def in_order(changes: Changes) -> list[tuple[str, Change]]:
    """Return changes in the order in which they were made: rules may mean an alias that came before them."""
    return sorted(changes.items(), key=lambda item: item[1].version)


def merge_changes(several: Iterable[Changes]) -> dict[str, Change]:
    """Return the latest change of each name that any of them has."""
    latest: dict[str, Change] = {}
    for changes in several:
        for name, change in changes.items():
            if name not in latest or latest[name].version < change.version:
                latest[name] = change
    return latest


def apply_changes(aliases: Mapping[str, AnyAlias], changes: Changes) -> dict[str, AnyAlias]:
    """Return the aliases of a deployment file as they are after these changes.

    Raises: ConfigError for a meaning that is none.
    """
    now = dict(aliases)
    for name, change in in_order(changes):
        now.pop(name, None)
        if change.meaning is not None:
            now[name] = read_alias(name, change.meaning)
    return now
