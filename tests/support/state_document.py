"""Holds a document of `GET /deployment/state` against its types: all names and no other, each of its type."""

import types
from collections.abc import Iterator
from typing import Any, Literal, NotRequired, Union, get_args, get_origin, get_type_hints, is_typeddict

from prefillshare.observe.document import SCHEMA, DeploymentState


def mistakes_in(document: object) -> list[str]:
    """What is wrong with a document; nothing when it keeps to schema 1."""
    found = list(_mistakes(document, DeploymentState, "state"))
    if isinstance(document, dict) and document.get("schema") != SCHEMA:
        found.append(f"state.schema is {document.get('schema')!r}")
    return found


def _mistakes(value: object, kind: Any, place: str) -> Iterator[str]:
    origin = get_origin(kind)
    if is_typeddict(kind):
        yield from _mistakes_of_names(value, kind, place)
    elif origin is list:
        if isinstance(value, list):
            for number, item in enumerate(value):
                yield from _mistakes(item, get_args(kind)[0], f"{place}[{number}]")
        else:
            yield f"{place} is no list: {value!r}"
    elif origin in (Union, types.UnionType):
        tried = [list(_mistakes(value, option, place)) for option in get_args(kind)]
        yield from min(tried, key=len) if all(tried) else ()
    elif origin is NotRequired:
        yield from _mistakes(value, get_args(kind)[0], place)
    elif origin is Literal:
        if value not in get_args(kind):
            yield f"{place} is {value!r}, not one of {get_args(kind)}"
    elif not _is_of(value, kind):
        yield f"{place} is {value!r}, not {kind.__name__}"


def _mistakes_of_names(value: object, kind: Any, place: str) -> Iterator[str]:
    if not isinstance(value, dict):
        yield f"{place} is no object: {value!r}"
        return
    hints = get_type_hints(kind)
    yield from (f"{place} lacks {name}" for name in sorted(kind.__required_keys__ - value.keys()))
    yield from (f"{place} has {name}" for name in sorted(value.keys() - hints.keys()))
    for name in hints.keys() & value.keys():
        yield from _mistakes(value[name], hints[name], f"{place}.{name}")


def _is_of(value: object, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)
