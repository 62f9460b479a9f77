"""JSON schemas that nothing satisfies, or that are nested without end: found by reading, before any grammar is made.

It covers what the grammar library takes silently: references that only lead to themselves, empty enumerations, ``not``
of everything. What the library refuses itself (a minimum above the maximum) is left to it, and whether some text does
fit a pattern is not asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

MAX_DEPTH = 128
"""Levels of JSON; a property of an object takes two."""

_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
MAX_COUNT = 1_000_000


def depth(value: Any) -> int:
    """Levels of nesting in parsed JSON, counted up to one more than ``MAX_DEPTH``."""
    level, num_levels = [value], 0
    while level and num_levels <= MAX_DEPTH:
        level = [inner for outer in level for inner in _children(outer) if isinstance(inner, dict | list)]
        num_levels += 1
    return num_levels


def _children(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def find_problem(text: str) -> str | None:
    """Why no answer can follow the schema in ``text``; None when one may."""
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"it is no JSON: {error}"
    if not isinstance(schema, dict | bool):
        return f"a schema is an object, not {text[:40]}"
    if depth(schema) > MAX_DEPTH:
        return f"it is nested more than {MAX_DEPTH} levels deep"
    return _find_odd_count(schema) or (None if _Satisfiable(schema).answer() else "nothing satisfies it")


def _find_odd_count(schema: Any) -> str | None:
    """Recursion is bounded: the depth was looked at."""
    if isinstance(schema, dict):
        for name in _COUNTS:
            value = schema.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool) and not 0 <= value <= MAX_COUNT:
                return f"{name} is {value}: it must be 0 to {MAX_COUNT}"
    return next((found for inner in _children(schema) if (found := _find_odd_count(inner))), None)


class _Satisfiable:
    """Which schemas some finite value satisfies.

    A schema that needs itself is satisfied by nothing; so references start as unsatisfiable, and the round is repeated
    while one more turns out to be satisfiable.
    """

    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[str, bool] = {}

    def answer(self) -> bool:
        while True:
            before = dict(self._known)
            result = self._is(self._root)
            for pointer in list(self._known):
                self._known[pointer] = self._known[pointer] or self._is(self._target(pointer))
            if result or before == self._known:
                return result

    def _is(self, schema: Any) -> bool:
        if not isinstance(schema, Mapping):
            return schema is not False
        if schema.get("enum") == [] or schema.get("not") in ({}, True):
            return False
        if isinstance(pointer := schema.get("$ref"), str) and not self._known.setdefault(pointer, False):
            return False
        if not all(self._is(part) for part in _read_list(schema, "allOf")):
            return False
        for name in ("anyOf", "oneOf"):
            ways = _read_list(schema, name)
            if ways and not any(self._is(way) for way in ways):
                return False
        return self._fits_some_type(schema)

    def _fits_some_type(self, schema: Mapping[str, Any]) -> bool:
        types = schema.get("type", "object" if "properties" in schema else None)
        named = types if isinstance(types, list) else [types]
        return any({"object": self._object, "array": self._array}.get(str(name), _anything)(schema) for name in named)

    def _object(self, schema: Mapping[str, Any]) -> bool:
        properties = schema.get("properties")
        if not isinstance(properties, Mapping):
            return True
        return all(self._is(properties[name]) for name in _read_list(schema, "required") if name in properties)

    def _array(self, schema: Mapping[str, Any]) -> bool:
        least = schema.get("minItems", 0)
        if not isinstance(least, int) or least < 1:
            return True
        firsts = _read_list(schema, "prefixItems")
        return all(self._is(item) for item in firsts[:least]) and (
            least <= len(firsts) or self._is(schema.get("items"))
        )

    def _target(self, pointer: str) -> Any:
        """What a pointer within the document names; anything for the rest, which the grammar library judges."""
        found = self._root
        for part in pointer.removeprefix("#").strip("/").split("/") if pointer.strip("#/") else []:
            name = part.replace("~1", "/").replace("~0", "~")
            found = found.get(name, True) if isinstance(found, Mapping) else True
        return found


def _read_list(schema: Mapping[str, Any], name: str) -> list[Any]:
    value = schema.get(name)
    return [entry for entry in value if isinstance(entry, dict | bool | str)] if isinstance(value, list) else []


def _anything(_: Mapping[str, Any]) -> bool:
    return True
