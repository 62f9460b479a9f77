"""Where the values of a deployment come from: a line of its file, the command line, or nowhere, as defaults do."""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.config.overrides import HIDDEN, apply_overrides
from prefillshare.config.schema import Deployment
from prefillshare.config.toml import NotTomlError, parse_toml, read_text
from prefillshare.naming.alias import AnyAlias, as_table

DEFAULT = "default"
"""Origin of what nobody says."""
_UNSAID: tuple[tuple[str, object], ...] = (("rules", []), ("min_probability", 0.0))
"""Of an alias that a classifier decides: what it has without saying so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A value that is not the default."""

    key: str
    """With its tables, such as `engine.page_size` or `decode.math.replicas`."""
    value: Any
    """What holds."""
    origin: str
    """Who says so."""


def list_settings(config: Deployment, *, with_defaults: bool = False) -> list[Setting]:
    """Return every value of a deployment that differs from its default, and the others as well where they are wanted.

    A default that the file states is the file's.
    """
    origins = {} if config.source is None else find_origins(config.source, config.overrides)
    return [
        Setting(key=key, value=value, origin=origins.get(key, DEFAULT if is_default else "the command line"))
        for key, value, is_default in _values(config, "")
        if with_defaults or not is_default
    ]


def find_origins(file: Path, changes: Sequence[str]) -> dict[str, str]:
    """Return by key the line of `file` or the change that says it; empty when the file cannot be read."""
    try:
        text = read_text(file)
        table = parse_toml(text)
    except (OSError, ValueError):
        return {}
    origins = {key: f"{file.name} line {number}" for key, number in find_lines(text).items()}
    for change in changes:
        before = dict(_flatten(table, ""))
        apply_overrides(Deployment, table, [change])
        origins |= {key: f"--set {change}" for key, value in _flatten(table, "") if before.get(key) != value}
    return origins


def find_lines(text: str) -> dict[str, int]:
    """Return by key the number of the line where TOML says it.

    Raises: NotTomlError.
    """
    table, place = parse_toml(text), ""
    known: dict[str, int] = {}
    num_seen: Counter[int] = Counter()
    for number, statement, said in _statements(text):
        if statement.startswith("["):
            place = _place_of(said, table, num_seen)
            continue
        for key, _ in _flatten(said, place):
            known.setdefault(key, number)
    return known


def _statements(text: str) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Each header and each key with its value: the number of its first line, its text, and what that says.

    What ends within a value is no TOML, so the shortest beginning of the rest that is shows where a statement ends,
    without a grammar of our own.
    """
    lines, start = text.splitlines(keepends=True), 0
    for end in range(1, len(lines) + 1):
        if start == end - 1 and not lines[start].split("#")[0].strip():
            start = end
            continue
        statement = "".join(lines[start:end]).lstrip()
        try:
            said = parse_toml(statement)
        except NotTomlError:
            continue
        yield start + 1, statement, said
        start = end


def _place_of(header: Mapping[str, Any], table: Any, num_seen: Counter[int]) -> str:
    """The table that a header opens, as `_flatten` names it in the whole `table`.

    Effects: counts in `num_seen` how many tables of each list were opened.
    """
    path: list[str] = []
    while header:
        ((name, inner),) = header.items()
        is_next = isinstance(inner, list)
        path.append(name)
        table, tables = table[name], table[name]
        if isinstance(tables, list):
            num_seen[id(tables)] += is_next
            number = num_seen[id(tables)]
            table = tables[number - 1]
            path.append(str(table.get("name", number)))
        header = inner[0] if is_next else inner
    return ".".join(path)


def _flatten(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The values in tables of TOML by key; tables of a list go by their names, or numbers where they have none."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(inner, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
        for number, item in enumerate(value, start=1):
            yield from _flatten(item, f"{path}.{item.get('name', number)}")
    else:
        yield path, value


def _values(table: Any, start: str) -> Iterator[tuple[str, Any, bool]]:
    """Every key with its value, and whether that is the default."""
    for item in dataclasses.fields(table):
        if item.name in HIDDEN:
            continue
        value, key = getattr(table, item.name), f"{start}{item.name}"
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{key}.")
        elif isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
            for inner in value:
                yield from _values(inner, f"{key}.{inner.name}.")
        elif isinstance(value, Mapping) and value:
            yield from _values_by_name(value, key)
        else:
            yield key, value, value == _default_of(item)


def _values_by_name(table: Mapping[str, Any], key: str) -> Iterator[tuple[str, Any, bool]]:
    if all(isinstance(value, AnyAlias) for value in table.values()):
        yield from ((name, value, False) for name, value in _of_aliases(table))
        return
    for name, value in table.items():
        is_table = dataclasses.is_dataclass(value)
        yield from _values(value, f"{key}.{name}.") if is_table else [(f"{key}.{name}", value, False)]


def _of_aliases(aliases: Mapping[str, AnyAlias]) -> Iterator[tuple[str, Any]]:
    """What a file says of aliases; what a classifier chooses from stands in the classifier."""
    for name, meaning in as_table(aliases).items():
        is_table = isinstance(meaning, Mapping)
        said = {key: value for key, value in meaning.items() if _is_said(key, value)} if is_table else meaning
        yield from _flatten(said, f"aliases.{name}")


def _is_said(key: str, value: object) -> bool:
    return key not in ("labels", "classifier_sha256") and (key, value) not in _UNSAID


def _default_of(item: "dataclasses.Field[Any]") -> Any:
    return item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
