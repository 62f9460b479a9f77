"""Function calls as models write them, into names and arguments."""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

Call = tuple[str, dict[str, Any]]

_BLOCK = re.compile(r"```[a-z_]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)


def parse_calls(answer: str) -> list[Call]:
    """The calls of an answer: JSON with name and arguments (alone, in a list, in `<tool_call>` tags), or Python.

    Raises: ValueError when it is neither.
    """
    tagged = _TAGGED.findall(answer)
    if tagged:
        return [call for text in tagged for call in _from_json(json.loads(text))]
    blocks = _BLOCK.findall(answer)
    text = (blocks[0] if blocks else answer).strip()
    try:
        decoded = json.loads(text)
    except ValueError:
        return list(_from_python(text))
    return list(_from_json(decoded))


def _from_json(decoded: Any) -> Iterator[Call]:
    for call in decoded if isinstance(decoded, list) else [decoded]:
        arguments = call.get("arguments", call.get("parameters")) if isinstance(call, dict) else None
        if not isinstance(arguments, dict) or not isinstance(call.get("name"), str):
            raise ValueError("is JSON, but not a call with name and arguments")
        yield call["name"], arguments


def _from_python(text: str) -> Iterator[Call]:
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError("is neither JSON nor a Python call") from None
    for node in body.elts if isinstance(body, ast.List | ast.Tuple) else [body]:
        if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("is not a call with named arguments only")
        yield ast.unparse(node.func), {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}


def _value(node: ast.expr) -> Any:
    """A literal; anything else, such as a variable, as its text."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)
