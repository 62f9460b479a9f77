"""JSON Schema of deployment files, for editors: keys, types, choices, defaults, and what each key means.

It is made of the dataclasses that read the files. What only several keys together can tell (a path that must exist, a
table that one topology has no use for) is said when a file is loaded.
"""

import ast
import dataclasses
import inspect
import textwrap
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from prefillshare.config.schema import Deployment
from prefillshare.naming.alias import AnyAlias

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NO_KEYS = {"source", "overrides"}
_TYPES = {str: "string", Path: "string", int: "integer", float: "number", bool: "boolean"}

Schema = dict[str, Any]


def deployment_schema() -> Schema:
    """Return the schema of a deployment file, as an object of JSON."""
    head = {"$schema": DIALECT, "title": "Deployment file of PrefillShare"}
    return head | _describe_table(Deployment)


def _describe_table(cls: Any) -> Schema:
    hints = get_type_hints(cls)
    texts = {name: text for base in reversed(cls.__mro__[:-1]) for name, text in _read_texts(base).items()}
    fields = [item for item in dataclasses.fields(cls) if item.name not in _NO_KEYS]
    properties = {item.name: _describe_key(item, hints[item.name], texts.get(item.name)) for item in fields}
    required = [
        item.name
        for item in fields
        if item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    schema: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": required} if required else {})


def _describe_key(item: "dataclasses.Field[Any]", hint: Any, text: str | None) -> Schema:
    schema = _describe_type(hint)
    if text:
        schema["description"] = text
    default = item.default
    if isinstance(default, str | int | float | bool) and not isinstance(default, type(dataclasses.MISSING)):
        schema["default"] = default
    return schema


def _describe_type(hint: Any) -> Schema:
    origin, arms = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        # A key that may be left out; a file has no way to write None.
        (inner,) = (arm for arm in arms if arm is not types.NoneType)
        return _describe_type(inner)
    if origin is Literal:
        return {"enum": list(arms)}
    if origin is tuple:
        return {"type": "array", "items": _describe_type(arms[0])}
    if hint == dict[str, AnyAlias]:
        weights = {"type": "object", "additionalProperties": {"type": "number", "minimum": 0}}
        rule = {"type": "object", "additionalProperties": {"type": "string"}, "required": ["module"]}
        rules = {
            "type": "object",
            "properties": {
                "default": {"type": "string"},
                "rules": {"type": "array", "items": rule},
                "classifier": {"type": "string"},
                "min_probability": {"type": "number", "minimum": 0, "maximum": 1},
            },
            "required": ["default"],
            "anyOf": [{"required": ["rules"]}, {"required": ["classifier"]}],
        }
        return {"type": "object", "additionalProperties": {"anyOf": [{"type": "string"}, weights, rules]}}
    if origin is dict:
        return {"type": "object", "additionalProperties": _describe_type(arms[1])}
    return _describe_table(hint) if dataclasses.is_dataclass(hint) else {"type": _TYPES[hint]}


def _read_texts(cls: type) -> dict[str, str]:
    """Return the string that stands under each field of a dataclass, in one line."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = " ".join(str(ast.literal_eval(text.value)).split())
    return found
