"""A member that is null is one that is left out, as the OpenAI API defines it for every optional one.

OpenAI's clients and many frameworks write ``"n": null`` or ``"frequency_penalty": null``; SGLang's models take null for
some members and refuse it for others. What has a meaning as null (the content of a message) is not touched.
"""

from __future__ import annotations

from typing import Any

_PATHS = ("/chat/completions", "/completions", "/responses")


def drop_nulls(value: dict[str, Any], path: str) -> dict[str, Any]:
    """The call `value` without its null members; `value` itself where it has none, or is none of OpenAI's."""
    if not path.endswith(_PATHS):
        return value
    kept = _drop_members(value)
    for name, shorten in _SHORTEN.items():
        if name in kept and (shorter := shorten(kept[name])) is not kept[name]:
            kept = {**kept, name: shorter}
    return kept


def _drop_members(value: Any) -> Any:
    if not isinstance(value, dict) or None not in value.values():
        return value
    return {name: member for name, member in value.items() if member is not None}


def _drop_within(value: object, name: str) -> object:
    value = _drop_members(value)
    if not isinstance(value, dict) or name not in value:
        return value
    shorter = _drop_members(value[name])
    return value if shorter is value[name] else {**value, name: shorter}


def _drop_in_format(value: object) -> object:
    return _drop_within(value, "json_schema")


def _drop_in_tools(value: object) -> object:
    if not isinstance(value, list):
        return value
    shorter = [_drop_within(tool, "function") for tool in value]
    return value if all(new is old for new, old in zip(shorter, value, strict=True)) else shorter


_SHORTEN = {"tools": _drop_in_tools, "response_format": _drop_in_format, "stream_options": _drop_members}
"""Members that have members of their own, and how these are left out."""
