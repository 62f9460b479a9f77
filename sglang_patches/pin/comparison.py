"""What became of each symbol in another release: the same, changed, moved or gone.

Moved means: not at its place any more, but defined elsewhere. It is looked for where its place now imports it from, in
the classes that its class stands on, then in every module: the same text first, then the same name, then a method of
the same name that reads much alike.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from sglang_patches.pin.release import Definition, Release
from sglang_patches.pin.watched import WatchedSymbol

State = Literal["same", "changed", "moved", "gone"]
STATES: tuple[State, ...] = ("same", "changed", "moved", "gone")

MIN_LIKENESS = 0.6
"""Share of equal lines from which a method of the same name in another class counts as the one that was there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One symbol in both releases."""

    symbol: WatchedSymbol
    old: Definition
    new: Definition | None
    """None where it is gone."""

    @property
    def state(self) -> State:
        if self.new is None:
            return "gone"
        if (self.new.module, self.new.qualname) != (self.old.module, self.old.qualname):
            return "moved"
        return "same" if self.is_same_text else "changed"

    @property
    def is_same_text(self) -> bool:
        return self.new is not None and self.new_text == self.old_text

    @property
    def old_text(self) -> str:
        return self.symbol.relevant(self.old.text)

    @property
    def new_text(self) -> str:
        """Empty where it is gone."""
        return self.symbol.relevant(self.new.text) if self.new else ""

    def diff(self) -> list[str]:
        """Unified diff of the two texts, without its two lines of file names; all of the old one where it is gone."""
        return list(difflib.unified_diff(self.old_text.splitlines(), self.new_text.splitlines(), lineterm=""))[2:]

    def num_lines(self) -> tuple[int, int]:
        """Lines that came, and lines that went."""
        signs = Counter(line[0] for line in self.diff())
        return signs["+"], signs["-"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Room:
    """How the symbols of one room fared."""

    name: str
    counts: dict[State, int]
    num_added: int
    """Lines that came."""
    num_removed: int
    """Lines that went, those of symbols that are gone included."""

    @property
    def num_symbols(self) -> int:
        return sum(self.counts.values())


def compare(symbols: Iterable[WatchedSymbol], old: Release, new: Release) -> list[Change]:
    """Each symbol in both releases, in the order given; one that the old release lacks is left out."""
    definitions = ((symbol, old.define(symbol.module, symbol.qualname)) for symbol in symbols)
    return [Change(symbol=symbol, old=before, new=_successor(before, new)) for symbol, before in definitions if before]


def by_upstream_module(changes: Iterable[Change]) -> list[Room]:
    """One room for each module of SGLang, those with most changed lines first."""
    return _rooms(changes, lambda change: change.symbol.module.removeprefix("sglang.srt."))


def by_our_file(changes: Iterable[Change]) -> list[Room]:
    """One room for each file of ours, those with most changed lines first."""
    return _rooms(changes, lambda change: change.symbol.ours.path)


def total(changes: Iterable[Change]) -> Room:
    """Everything as one room."""
    return _room("total", list(changes))


def _rooms(changes: Iterable[Change], name_of: Callable[[Change], str]) -> list[Room]:
    members: dict[str, list[Change]] = {}
    for change in changes:
        members.setdefault(name_of(change), []).append(change)
    rooms = [_room(name, of_room) for name, of_room in members.items()]
    return sorted(rooms, key=lambda room: (-room.num_added - room.num_removed, room.name))


def _room(name: str, changes: list[Change]) -> Room:
    counts = Counter(change.state for change in changes)
    lines = [change.num_lines() for change in changes]
    return Room(
        name=name,
        counts={state: counts[state] for state in STATES},
        num_added=sum(added for added, _ in lines),
        num_removed=sum(removed for _, removed in lines),
    )


def _successor(old: Definition, release: Release) -> Definition | None:
    new = release.define(old.module, old.qualname)
    if new is None:
        return release.inherited(old.module, old.qualname) or _find_elsewhere(old, release)
    if new.imported_from and not old.imported_from:
        # What was defined here is now imported: its text is where the import points, or one module further.
        return release.define(new.imported_from, old.qualname) or _find_elsewhere(old, release)
    return new


def _find_elsewhere(old: Definition, release: Release) -> Definition | None:
    found = list(release.search(old.qualname))
    same_text = (new for new in found if new.text == old.text)
    same_name = (new for new in found if new.qualname == old.qualname)
    return next(same_text, None) or next(same_name, None) or _most_alike(old, found)


def _most_alike(old: Definition, found: list[Definition]) -> Definition | None:
    likeness, nearest = max(
        ((_likeness(old, new), new) for new in found), key=lambda pair: pair[0], default=(0.0, None)
    )
    return nearest if likeness >= MIN_LIKENESS else None


def _likeness(old: Definition, new: Definition) -> float:
    return difflib.SequenceMatcher(None, old.text.splitlines(), new.text.splitlines()).ratio()
