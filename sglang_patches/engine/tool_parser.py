"""A tool that the caller names is the one that is called, and its arguments are an object.

Target: ``FunctionCallParser.get_structure_constraint``, ``.get_legacy_structural_tag`` and
    ``sglang.srt.entrypoints.openai.serving_chat.parse_tool_call_arguments``
Why: for parsers of the older kind (llama3, qwen and others), a named tool leaves the grammar open to every tool of the
    call, so another one is called; and any JSON value passes as arguments, a text among them, which no client reads.
    A call without arguments that a client sends back as an empty text is refused.
How: the constraint is made from the named tool alone; arguments that have no strict schema must be an object; an empty
    text is an empty object.
Upstream: sglang/srt/function_call/function_call_parser.py:178,230 and openai/serving_chat.py:108 at 0.5.17.
Remove when: upstream heeds the name, and asks for an object.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any


def wrap_get_structure_constraint(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_structure_constraint(self: Any, tool_choice: Any, *args: Any, **kwargs: Any) -> Any:
        function = getattr(tool_choice, "function", None)
        if function is not None:
            self = copy.copy(self)
            self.tools = [tool for tool in self.tools if tool.function.name == function.name]
        return original(self, tool_choice, *args, **kwargs)

    return get_structure_constraint


def wrap_get_legacy_structural_tag(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_legacy_structural_tag(self: Any, at_least_one: bool = False) -> Any:
        tag = original(self, at_least_one)
        for structure in tag.structures:
            structure.schema_ = structure.schema_ or {"type": "object"}
        return tag

    return get_legacy_structural_tag


def wrap_parse_tool_call_arguments(original: Callable[..., Any]) -> Callable[..., Any]:
    def parse_tool_call_arguments(arguments: str) -> Any:
        return original(arguments if arguments.strip() else "{}")

    return parse_tool_call_arguments
