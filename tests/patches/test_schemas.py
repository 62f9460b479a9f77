"""Schemas that no finite value satisfies are found, and none that one does."""

import json
from typing import Any

import pytest

from sglang_patches.answers.schemas import MAX_DEPTH, depth, find_problem

SELF = {"$ref": "#"}
LIST = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "type": "object",
            "properties": {"next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}},
            "required": ["next"],
        }
    },
}

NOTHING: list[Any] = [
    SELF,
    {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
    {"type": "object", "properties": {"a": SELF}, "required": ["a"]},
    {"type": "array", "items": SELF, "minItems": 1},
    {"type": "array", "prefixItems": [{"enum": []}], "minItems": 1},
    {"anyOf": [SELF, SELF]},
    {"allOf": [{"type": "string"}, SELF]},
    {"enum": []},
    {"not": {}},
    {"not": True},
    {"properties": {"a": {"enum": []}}, "required": ["a"]},
    {"type": "object", "properties": {"a": False}, "required": ["a"]},
    False,
]
SOMETHING: list[Any] = [
    {"type": "object", "properties": {"a": SELF}},
    {"type": "array", "items": SELF},
    {"anyOf": [SELF, {"type": "string"}]},
    {"type": ["object", "string"], "properties": {"a": SELF}, "required": ["a"]},
    {"properties": {"a": {"enum": []}}},
    LIST,
    {},
    True,
    {"$ref": "#/no/such/place"},
]


@pytest.mark.parametrize("schema", NOTHING, ids=json.dumps)
def test_nothing_satisfies(schema: Any) -> None:
    assert find_problem(json.dumps(schema)) == "nothing satisfies it"


@pytest.mark.parametrize("schema", SOMETHING, ids=json.dumps)
def test_something_satisfies(schema: Any) -> None:
    assert find_problem(json.dumps(schema)) is None


def test_nesting_and_counts_are_bounded() -> None:
    schema: Any = {}
    for _ in range(MAX_DEPTH):
        schema = {"items": schema}
    assert depth(schema) == MAX_DEPTH + 1
    assert find_problem(json.dumps(schema)) == f"it is nested more than {MAX_DEPTH} levels deep"
    assert find_problem("[" * 100_000) is not None
    assert find_problem('{"items": {"maxLength": 1e9}}') == "maxLength is 1000000000.0: it must be 0 to 1000000"
    assert find_problem("[]") == "a schema is an object, not []"
