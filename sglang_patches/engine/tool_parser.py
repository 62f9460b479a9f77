"""A tool that the caller names is the one that is called, and its arguments are an object.

Target: ``sglang.srt.function_call.function_call_parser.FunctionCallParser``
Why: for parsers of the older kind (llama3, qwen and others), a named tool leaves the grammar open to every tool of the
    call, so another one is called; and any JSON value passes as arguments, a text among them, which no client reads.
How: the constraint is made from the named tool alone; arguments that have no strict schema must be an object.
Remove when: upstream heeds the name, and asks for an object.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from sglang.srt.function_call import function_call_parser as upstream

from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from sglang.srt.entrypoints.openai.protocol import StructuralTagResponseFormat, ToolChoice


@binds(
    "function_call.function_call_parser:FunctionCallParser",
    at=(
        "entrypoints.http_server",
        "entrypoints.openai.serving_chat",
        "entrypoints.openai.serving_responses",
        "server_args",
    ),
)
class FunctionCallParser(upstream.FunctionCallParser):
    """Makes grammars that only a call of the named tool satisfies."""

    @overrides("601d2c9707138b0c", "another tool than the one that the caller names could be called")
    def get_structure_constraint(self, tool_choice: ToolChoice | str, *args: Any, **kwargs: Any) -> Any:
        function = getattr(tool_choice, "function", None)
        if function is None:
            return super().get_structure_constraint(tool_choice, *args, **kwargs)
        # A copy: this parser goes on to read calls of all tools.
        named = copy.copy(self)
        named.tools = [tool for tool in self.tools if tool.function.name == function.name]
        return super(FunctionCallParser, named).get_structure_constraint(tool_choice, *args, **kwargs)

    @overrides("2e51f78d7572640f", "the arguments of a required call could be a text")
    def get_legacy_structural_tag(self, at_least_one: bool = False) -> StructuralTagResponseFormat:
        tag = super().get_legacy_structural_tag(at_least_one)
        for structure in tag.structures:
            structure.schema_ = structure.schema_ or {"type": "object"}
        return tag
