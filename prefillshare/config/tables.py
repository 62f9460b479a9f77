"""TOML tables into dataclasses: unknown keys, missing keys and wrong types, each with the fix."""

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from prefillshare.errors import ConfigError
from prefillshare.naming.alias import AnyAlias, read_aliases
from prefillshare.wire.text import shorten

T = TypeVar("T")

_MAX_QUOTED = 60
_INT_END = 1 << 63
"""What every reader of TOML takes lies below, and floats can be made of it."""

_TYPE_NAMES = {
    str: "text in quotes",
    Path: "text in quotes",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}


def build(cls: type[T], table: Mapping[str, Any], where: str, hidden: frozenset[str] = frozenset()) -> T:
    """Return an instance of the dataclass `cls` made from a TOML table.

    `where` names the table in messages; fields in `hidden` are no keys of the file.
    Raises: ConfigError for an unknown or missing key or a value of the wrong type.
    """
    hints = get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls) if item.name not in hidden}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where} has the unknown key {key!r}: {suggest_nearest(key, fields)}")
    for name, item in fields.items():
        if name not in table and _is_required(item):
            raise ConfigError(f"{where} has no {name!r}: add {_make_example(name, hints[name])}")
    values = {key: convert(value, hints[key], key, where) for key, value in table.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """Return the part of a message that names the nearest known word, or all of them."""
    names = list(known)
    if close := difflib.get_close_matches(word, names, n=1, cutoff=0.6):
        return f"did you mean {close[0]!r}?"
    return f"it must be one of {', '.join(names)}"


def _is_required(item: "dataclasses.Field[Any]") -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _make_example(name: str, hint: Any) -> str:
    if get_origin(hint) is Literal:
        return f'{name} = "{get_args(hint)[0]}"'
    if dataclasses.is_dataclass(hint):
        return f"a [{name}] table"
    if get_origin(hint) is tuple and dataclasses.is_dataclass(get_args(hint)[0]):
        return f"a [[{name}]] table"
    return f'{name} = "..."'


def convert(value: object, hint: Any, key: str, where: str) -> Any:
    """Return what a key of type `hint` holds, made of a TOML value.

    Raises: ConfigError for a value of the wrong type.
    """
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (arm for arm in get_args(hint) if arm is not types.NoneType)
        return convert(value, inner, key, where)
    if origin is Literal:
        return _check_choice(value, get_args(hint), key, where)
    if origin is tuple:
        return _convert_list(value, get_args(hint)[0], key, where)
    if hint == dict[str, AnyAlias]:
        return read_aliases(value)
    if origin is dict and dataclasses.is_dataclass(inner := get_args(hint)[1]):
        return _convert_tables(value, inner, key, where)
    if origin is dict:
        return _convert_texts(value, key, where)
    if dataclasses.is_dataclass(hint):
        return _build_table(value, hint, key, where)
    return _convert_scalar(value, hint, key, where)


def _check_choice(value: object, choices: tuple[str, ...], key: str, where: str) -> str:
    if isinstance(value, str) and value in choices:
        return value
    hint = suggest_nearest(value, choices) if isinstance(value, str) else f"it must be one of {', '.join(choices)}"
    raise ConfigError(f"{where}: {key} is {_quote(value)}: {hint}")


def _convert_list(value: object, inner: Any, key: str, where: str) -> tuple[Any, ...]:
    is_table = dataclasses.is_dataclass(inner)
    if not isinstance(value, list):
        item = "0.5" if inner is float else '"..."'
        form = f"write [[{key}]] with two brackets" if is_table else f"write {key} = [{item}]"
        raise ConfigError(f"{where}: {key} is {_quote(value)}, not a list: {form}")
    if is_table:
        return tuple(_build_table(item, inner, key, where, number) for number, item in enumerate(value, start=1))
    return tuple(convert(item, inner, key, where) for item in value)


def _convert_texts(value: object, key: str, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for text in value.values()):
        raise ConfigError(f'{where}: {key} is {_quote(value)}: write texts by name, {key} = {{ name = "text" }}')
    return dict(value)


def _convert_tables(value: object, inner: Any, key: str, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {key} is {_quote(value)}: write tables by name, {key} = {{ name = {{ ... }} }}")
    return {name: _build_table(table, inner, f"{key}.{name}", where) for name, table in value.items()}


def _build_table(value: object, cls: Any, key: str, where: str, number: int | None = None) -> Any:
    name = _name_table(key, where, number)
    if not isinstance(value, Mapping):
        raise ConfigError(f"{key} is {_quote(value)}: make it a table, {name}")
    return build(cls, value, name)


def _name_table(key: str, where: str, number: int | None) -> str:
    """Return the name of a table with those that it is in: `prefill` stands under `[roles]`, and alone as well."""
    if where.startswith("[["):
        return f"{key} of {where}" if number is None else f"{key} number {number} of {where}"
    path = f"{where[1:-1]}.{key}" if where.startswith("[") else key
    return f"[{path}]" if number is None else f"[[{path}]] number {number}"


def _convert_scalar(value: object, hint: type, key: str, where: str) -> Any:
    accepted: tuple[type, ...] = {Path: (str,), float: (float, int)}.get(hint, (hint,))
    # In Python a bool is an int; in a deployment file it is a slip.
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}: {key} is {_quote(value)}: it must be {_TYPE_NAMES[hint]}")
    if isinstance(value, int) and not -_INT_END <= value < _INT_END:
        # Without the value: it may have more digits than Python writes.
        raise ConfigError(f"{where}: {key} has more than 64 bits: write a smaller number")
    # TOML has them, and a check such as "value < 0" lets nan in.
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where}: {key} is {value}: write a number with an end")
    if isinstance(value, str) and not value.strip():
        raise ConfigError(f"{where}: {key} is empty: write a value or remove the line")
    return hint(value)


def _quote(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return shorten(repr(value), _MAX_QUOTED)
