"""A call without arguments that comes back as an empty text is one with an empty object.

Target: ``sglang.srt.entrypoints.openai.serving_chat.parse_tool_call_arguments``
Why: a call without arguments that a client sends back as an empty text is refused.
How: an empty text is read as an empty object.
Remove when: upstream reads it so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.declarations import wraps_upstream

Parse = Callable[[str], Any]


@wraps_upstream(
    "entrypoints.openai.serving_chat:parse_tool_call_arguments",
    "6602eba4b757ad52",
    "a call without arguments that comes back as an empty text would be refused",
)
def wrap_parse_tool_call_arguments(original: Parse) -> Parse:
    def parse_tool_call_arguments(arguments: str) -> Any:
        return original(arguments if arguments.strip() else "{}")

    return parse_tool_call_arguments
