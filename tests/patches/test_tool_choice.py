"""A named tool is the one that the grammar allows, and arguments are objects."""

from typing import Any

import pytest

from sglang_patches.patches.tool_arguments import wrap_parse_tool_call_arguments

NAMES = ("first", "second", "third")
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def _parser(name: str) -> Any:
    from sglang.srt.entrypoints.openai.protocol import Function, Tool

    from sglang_patches.engine.tool_parser import FunctionCallParser

    tools = [Tool(function=Function(name=one, parameters=SCHEMA, strict=one == "third")) for one in NAMES]
    return FunctionCallParser(tools, name)


def _choice(name: str) -> Any:
    from sglang.srt.entrypoints.openai.protocol import ToolChoice, ToolChoiceFuncName

    return ToolChoice(function=ToolChoiceFuncName(name=name))


@pytest.mark.parametrize("name", ["llama3", "qwen25", "mistral"])
def test_only_the_named_tool_may_be_called(name: str) -> None:
    parser = _parser(name)
    kind, constraint = parser.get_structure_constraint(_choice("second"))
    text = constraint.model_dump_json() if kind == "structural_tag" else str(constraint)
    assert [one in text for one in NAMES] == [False, True, False]
    assert len(parser.tools) == len(NAMES)


def test_every_tool_may_be_called_where_one_is_required() -> None:
    parser = _parser("llama3")
    _, constraint = parser.get_structure_constraint("required")
    assert all(one in constraint.model_dump_json() for one in NAMES)


def test_arguments_are_objects_and_follow_the_schema_where_a_call_must_be_made() -> None:
    parser = _parser("llama3")
    allowed = [one.schema_ for one in parser.get_legacy_structural_tag(False).structures]
    assert allowed == [{"type": "object"}, {"type": "object"}, SCHEMA]
    parser.tools[0].function.parameters = {"type": "object", "required": ["a"], "properties": {"a": {"enum": []}}}
    forced = [one.schema_ for one in parser.get_legacy_structural_tag(True).structures]
    assert forced == [{"type": "object"}, SCHEMA, SCHEMA], "nothing satisfies the first one's"


@pytest.mark.parametrize("text", ["", " \n"])
def test_no_arguments_are_an_empty_object(text: str) -> None:
    from sglang.srt.entrypoints.openai import serving_chat

    parse = wrap_parse_tool_call_arguments(serving_chat.parse_tool_call_arguments)
    assert parse(text) == {}
    assert parse('{"a": 1}') == {"a": 1}
    with pytest.raises(ValueError, match="valid JSON"):
        parse("{")
