"""`--set engine.page_size=16`: keys of a file that the command line changes, written as in TOML.

A table of a list, such as `[[decode]]`, is meant by its `name`, or by its number from 1 on: `decode.math.replicas=2`.
"""

import dataclasses
import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from prefillshare.config.tables import convert, suggest_nearest
from prefillshare.config.toml import NotTomlError, parse_toml
from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias, read_alias

D = TypeVar("D")

HIDDEN = frozenset({"source", "overrides"})
"""Fields of what is read that are no keys of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One key that the command line changes."""

    text: str
    """As it was given."""
    path: tuple[str, ...]
    """The key with the tables that it stands in."""
    value: Any
    """What TOML makes of the value."""


def apply_overrides(cls: type, table: dict[str, Any], texts: Sequence[str]) -> None:
    """Change `table`, from which `cls` is built, as the command line says; of two that say the same, the last wins.

    Raises: ConfigError for a key that is not there, with the nearest one, and for a value of the wrong type.
    """
    for override in map(parse_override, texts):
        _change_table(cls, table, override.path, override.value, _Place(root=cls, text=override.text))


def change_deployment(deployment: D, texts: Sequence[str]) -> D:
    """Return a deployment that no file describes, changed as `apply_overrides` changes a file.

    Raises: ConfigError as there; tables of a list have no names here.
    """
    table: dict[str, Any] = {}
    apply_overrides(type(deployment), table, texts)
    return _change_value(deployment, table)


def _change_value(value: D, table: Mapping[str, Any]) -> D:
    hints, changed = get_type_hints(type(value)), {}
    for name, inner in table.items():
        hint, current = _without_none(hints[name]), getattr(value, name)
        is_there = dataclasses.is_dataclass(hint) and current is not None
        changed[name] = _change_value(current, inner) if is_there else convert(inner, hint, name, "--set")
    # Each of our dataclasses is one.
    return dataclasses.replace(value, **changed)  # type: ignore[type-var]


def parse_override(text: str) -> Override:
    """Read KEY=VALUE; a value that is no TOML is text, since a shell takes its quotes away.

    Raises: ConfigError for what has no key.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, such as --set engine.page_size=16")
    try:
        found: Any = parse_toml(f"{key}=0")
    except NotTomlError:
        raise ConfigError(
            f"--set {text}: {key.strip()!r} is no key: write names with dots between them, such as engine.page_size"
        ) from None
    path = []
    while isinstance(found, dict):
        [(name, found)] = found.items()
        path.append(name)
    return Override(text=text, path=tuple(path), value=_read_value(value))


def _read_value(text: str) -> Any:
    try:
        found = parse_toml(f"value = {text}")
    except NotTomlError:
        return text.strip()
    # Of several lines it is more than a value.
    return found["value"] if len(found) == 1 else text.strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """What a message names."""

    root: type
    """What the whole file is."""
    text: str
    """The override as it was given."""

    def error(self, problem: str) -> ConfigError:
        """Return what to raise."""
        return ConfigError(f"--set {self.text}: {problem}")


def _change_table(hint: Any, table: dict[str, Any], path: tuple[str, ...], value: Any, place: _Place) -> None:
    name, *rest = path
    inner = _hint_of_key(hint, name, place)
    if dataclasses.is_dataclass(inner) or get_origin(inner) is dict:
        _change_inner(inner, table, (name, *rest), value, place)
    elif rest and is_table_list(inner):
        chosen, *further = rest
        found = _find_table(table.get(name), name, chosen, place)
        for keys, each in _spread(tuple(further), value, f"{name}.{chosen}", place):
            _change_table(get_args(inner)[0], found, keys, each, place)
    elif inner == AnyAlias:
        _change_alias(table, (name, *rest), value, place)
    elif rest:
        raise place.error(f"{name} is a value and has no key {'.'.join(rest)!r}")
    else:
        convert(value, inner, name, f"--set {place.text}")
        table[name] = value


def _change_inner(inner: Any, table: dict[str, Any], path: tuple[str, ...], value: Any, place: _Place) -> None:
    name, *rest = path
    below = table.setdefault(name, {})
    if not isinstance(below, dict):
        raise place.error(f"the file says {name} = {below!r}, which is no table")
    for keys, each in _spread(tuple(rest), value, name, place):
        _change_table(inner, below, keys, each, place)


def _change_alias(table: dict[str, Any], path: tuple[str, ...], value: Any, place: _Place) -> None:
    """An alias, or with a further key one share of it, or one key beside its rules or its classifier."""
    name, *rest = path
    if rest:
        below = table.get(name, {})
        if not isinstance(below, dict):
            raise place.error(f"the file says {name} = {below!r}, which is no table")
        value = {**below, ".".join(rest): value}
    try:
        read_alias(name, value)
    except ConfigError as error:
        raise place.error(str(error)) from None
    table[name] = value


def _spread(path: tuple[str, ...], value: Any, name: str, place: _Place) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The keys that are changed: a table as a value changes those that it has, and leaves the others."""
    if path:
        yield path, value
    elif isinstance(value, Mapping):
        yield from (((key,), each) for key, each in value.items())
    else:
        raise place.error(f"{name} is a table: say which key of it, such as {name}.KEY={value}")


def _hint_of_key(hint: Any, name: str, place: _Place) -> Any:
    if get_origin(hint) is dict:
        return get_args(hint)[1]
    keys = {item.name for item in dataclasses.fields(hint)} - HIDDEN
    if name not in keys:
        raise place.error(f"there is no key {name!r} here: {_suggest(name, keys, place.root)}")
    return _without_none(get_type_hints(hint)[name])


def _suggest(name: str, keys: set[str], root: type) -> str:
    """The nearest key of the table, or one of that name in another table."""
    if close := difflib.get_close_matches(name, sorted(keys), n=1):
        return f"did you mean {close[0]!r}?"
    elsewhere: dict[str, str] = {}
    for path in sorted(list_keys(root), key=lambda path: path.count(".")):
        elsewhere.setdefault(path.rpartition(".")[2], path)
    if close := difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.8):
        return f"did you mean {elsewhere[close[0]]}?"
    return f"it must be one of {', '.join(sorted(keys))}"


def list_keys(cls: Any, start: str = "") -> Iterator[str]:
    """Every key of a file, with the tables that it stands in; NAME stands for the name of a table in a list."""
    for item in dataclasses.fields(cls):
        if item.name in HIDDEN:
            continue
        inner, path = _without_none(get_type_hints(cls)[item.name]), f"{start}{item.name}"
        if dataclasses.is_dataclass(inner):
            yield from list_keys(inner, f"{path}.")
        elif is_table_list(inner):
            yield from list_keys(get_args(inner)[0], f"{path}.NAME.")
        else:
            yield path


def is_table_list(hint: Any) -> bool:
    """Whether a key is written as `[[key]]`."""
    return get_origin(hint) is tuple and dataclasses.is_dataclass(get_args(hint)[0])


def _without_none(hint: Any) -> Any:
    if hint != AnyAlias and get_origin(hint) in (Union, types.UnionType):
        (hint,) = (arm for arm in get_args(hint) if arm is not types.NoneType)
    return hint


def _find_table(tables: Any, key: str, chosen: str, place: _Place) -> dict[str, Any]:
    listed = [table for table in tables if isinstance(table, dict)] if isinstance(tables, list) else []
    by_name = {str(table.get("name")): table for table in reversed(listed)}
    by_number = {str(number): table for number, table in enumerate(listed, start=1)}
    if found := by_name.get(chosen, by_number.get(chosen)):
        return found
    names = [str(table.get("name")) for table in listed]
    raise place.error(f"{key} has no {chosen!r}: {suggest_nearest(chosen, names) if names else 'the file has none'}")
