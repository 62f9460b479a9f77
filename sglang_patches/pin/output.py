"""A comparison for the terminal and for scripts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypedDict

from sglang_patches.pin.comparison import (
    STATES,
    Change,
    Room,
    by_our_file,
    by_upstream_module,
    total,
)
from sglang_patches.pin.release import Definition, Release

COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}
END_OF_COLOUR = "\x1b[0m"


class PlaceData(TypedDict):
    """A definition for scripts."""

    name: str
    place: str
    text: str


class OursData(TypedDict):
    """What of ours has to do with a symbol, for scripts."""

    place: str
    text: str | None


class ChangeData(TypedDict):
    """A change for scripts."""

    symbol: str
    kind: str
    why: str
    state: str
    added: int
    removed: int
    old: PlaceData
    new: PlaceData | None
    ours: OursData


class RoomData(TypedDict):
    """A room for scripts."""

    room: str
    same: int
    changed: int
    moved: int
    gone: int
    added: int
    removed: int


def heading(old: Release, new: Release, source: str) -> str:
    """Which releases are compared."""
    return f"SGLang {_name(old)} (installed) and {_name(new)} ({source})"


def _name(release: Release) -> str:
    return release.version or "of unknown version"


def sections(changes: Iterable[Change], old: Release, new: Release, *, is_coloured: bool) -> Iterator[str]:
    """Each symbol: what became of it, its diff, and what stands in its place here."""
    for change in changes:
        yield _title(change)
        yield f"    {change.symbol.kind}: {change.symbol.why}"
        if change.is_same_text:
            yield from _indented(change.old_text.splitlines())
        else:
            yield f"--- {_name(old)}  {change.old.place}"
            yield f"+++ {_name(new)}  {change.new.place if change.new else '(gone)'}"
            yield from (_coloured(line) if is_coloured else line for line in change.diff())
        yield f"ours: {change.symbol.ours.place}"
        yield from _indented((change.symbol.ours.text or "").splitlines())
        yield ""


def _title(change: Change) -> str:
    added, removed = change.num_lines()
    moved = f" to {change.new.module}.{change.new.qualname}" if change.state == "moved" and change.new else ""
    size = ", same text" if change.is_same_text else f", {added} lines added, {removed} removed"
    return f"=== {change.symbol.name}: {change.state}{moved}{'' if change.state == 'same' else size}"


def _indented(lines: Iterable[str]) -> Iterator[str]:
    return (f"    | {line}".rstrip() for line in lines)


def _coloured(line: str) -> str:
    colour = COLOURS.get(line[0])
    return f"{colour}{line}{END_OF_COLOUR}" if colour else line


def summary(changes: list[Change]) -> Iterator[str]:
    """Counts by module of SGLang and by file of ours, then all together."""
    everything = total(changes)
    for title, rooms in (
        ("module of SGLang", by_upstream_module(changes)),
        ("file of ours", by_our_file(changes)),
    ):
        yield from _table(title, [*rooms, everything])
        yield ""
    counts = ", ".join(f"{everything.counts[state]} {state}" for state in STATES)
    yield f"{everything.num_symbols} symbols: {counts}"


def _table(title: str, rooms: list[Room]) -> Iterator[str]:
    rows = [(title, "symbols", *STATES, "lines"), *(_cells(room) for room in rooms)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for first, *numbers in rows:
        yield "  ".join((first.ljust(widths[0]), *(n.rjust(w) for n, w in zip(numbers, widths[1:], strict=True))))


def _cells(room: Room) -> tuple[str, ...]:
    counts = (str(room.counts[state] or "") for state in STATES)
    return (room.name, str(room.num_symbols), *counts, f"+{room.num_added} -{room.num_removed}")


def as_data(changes: list[Change], old: Release, new: Release) -> dict[str, object]:
    """Everything for scripts."""
    return {
        "old": old.version,
        "new": new.version,
        "total": _room_data(total(changes)),
        "modules": [_room_data(room) for room in by_upstream_module(changes)],
        "files": [_room_data(room) for room in by_our_file(changes)],
        "symbols": [_change_data(change) for change in changes],
    }


def _room_data(room: Room) -> RoomData:
    return RoomData(
        room=room.name,
        same=room.counts["same"],
        changed=room.counts["changed"],
        moved=room.counts["moved"],
        gone=room.counts["gone"],
        added=room.num_added,
        removed=room.num_removed,
    )


def _change_data(change: Change) -> ChangeData:
    added, removed = change.num_lines()
    ours = change.symbol.ours
    return ChangeData(
        symbol=change.symbol.name,
        kind=change.symbol.kind,
        why=change.symbol.why,
        state=change.state,
        added=added,
        removed=removed,
        old=_place_data(change.old, change.old_text),
        new=_place_data(change.new, change.new_text) if change.new else None,
        ours=OursData(place=ours.place, text=ours.text),
    )


def _place_data(definition: Definition, text: str) -> PlaceData:
    return PlaceData(name=f"{definition.module}.{definition.qualname}", place=definition.place, text=text)
