"""A tool that the caller names is the one that is called, and its arguments are an object.

Target: ``sglang.srt.function_call.function_call_parser.FunctionCallParser``
Why: for parsers of the older kind (llama3, qwen and others), a named tool leaves the grammar open to every tool of the
    call, so another one is called; and any JSON value passes as arguments, a text among them, which no client reads.
    A call that must be made may have any arguments, too, unless the tool is strict, and small models make them up.
How: the constraint is made from the named tool alone; arguments of a call that must be made follow the tool's schema,
    and others without a strict one must be an object.
Remove when: upstream heeds the name, and asks for an object.
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, cast

from sglang.srt.function_call import function_call_parser as upstream

from sglang_patches.answers.schemas import find_problem
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
        for structure, tool in zip(tag.structures, self.tools, strict=True):
            wanted = tool.function.parameters if at_least_one else None
            structure.schema_ = structure.schema_ or _usable(wanted) or {"type": "object"}
        return tag


def _usable(schema: object) -> dict[str, Any] | None:
    """The schema, if some value satisfies it: a caller who did not ask for strictness is not refused for it."""
    is_usable = isinstance(schema, dict) and schema and find_problem(json.dumps(schema)) is None
    return cast("dict[str, Any]", schema) if is_usable else None
