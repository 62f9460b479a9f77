"""Rows into chats: by the columns that a training file declares, and for the data sets that are known by name."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefillshare.config.training import Columns, Source
from prefillshare.training.data.chat import Chat, RowError, text_of

Mapper = Callable[[Mapping[str, Any]], Chat]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownSource:
    """A data set with a known home and known columns."""

    hub: str
    """Its repository on the Hugging Face hub."""
    subset: str | None = None
    """Configuration there."""
    split: str = "train"
    """Split there."""
    columns: tuple[str, ...]
    """Columns that the mapping reads."""
    mapper: Mapper
    """Row into chat."""


def mapper_of(columns: Columns) -> Mapper:
    """The mapping that a training file declares."""

    def map_row(row: Mapping[str, Any]) -> Chat:
        tools = _tools(row, columns.tools) if columns.tools else ()
        if columns.messages is not None:
            return Chat(messages=_decode_column(row, columns.messages, list), tools=tools)
        assert columns.prompt is not None
        assert columns.answer is not None
        system = [{"role": "system", "content": text_of(row, str(columns.system))}] if _has(row, columns.system) else []
        return _make_chat(text_of(row, columns.prompt), text_of(row, columns.answer), system=system, tools=tools)

    return map_row


def as_tools(tools: Sequence[Any]) -> list[Any]:
    """Function signatures in the form of the chat API, which wraps each; bare ones are wrapped."""
    return [_wrap_tool(tool) for tool in tools]


def _wrap_tool(tool: Any) -> Any:
    if not isinstance(tool, Mapping) or "function" in tool or "name" not in tool:
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _tools(row: Mapping[str, Any], column: str) -> list[Any]:
    """The functions of a row; a row may have none."""
    return as_tools(_decode_column(row, column, list)) if _has(row, column) else []


def _has(row: Mapping[str, Any], column: str | None) -> bool:
    """Whether a row has something in a column that it may leave empty."""
    return column is not None and row.get(column) not in (None, "")


def columns_of(columns: Columns) -> tuple[str, ...]:
    """The names that a declared mapping reads."""
    names = (columns.messages, columns.prompt, columns.answer, columns.system, columns.tools)
    return tuple(name for name in names if name is not None)


def _make_chat(question: str, answer: str, *, system: list[dict[str, Any]] | None = None, tools: Any = ()) -> Chat:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return Chat(messages=[*(system or []), *turns], tools=tools)


def _map_pair(question: str, answer: str) -> Mapper:
    return lambda row: _make_chat(text_of(row, question), text_of(row, answer))


def _map_function_calls(row: Mapping[str, Any]) -> Chat:
    tools = [_tool(tool) for tool in _decode_column(row, "tools", list)]
    calls = [_call(call) for call in _decode_column(row, "answers", list)]
    if not calls:
        raise RowError("empty", "answers is an empty list")
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": text_of(row, "query")},
        {"role": "assistant", "content": "", "tool_calls": calls},
    ]
    return Chat(messages=messages, tools=tools)


def _call(call: Any) -> dict[str, Any]:
    if not isinstance(call, Mapping) or not isinstance(call.get("arguments"), Mapping) or "name" not in call:
        raise RowError("malformed", "an answer is not a call with name and arguments")
    return {"type": "function", "function": {"name": call["name"], "arguments": dict(call["arguments"])}}


def _tool(tool: Any) -> dict[str, Any]:
    if not isinstance(tool, Mapping) or "name" not in tool or not isinstance(tool.get("parameters", {}), Mapping):
        raise RowError("malformed", "a tool is not a function with name and parameters")
    parameters = tool.get("parameters", {})
    if not all(isinstance(parameter, Mapping) for parameter in parameters.values()):
        raise RowError("malformed", f"the parameters of {tool['name']} are not objects")
    schema = {
        "type": "object",
        "properties": {name: _parameter(parameter) for name, parameter in parameters.items()},
        "required": [name for name, parameter in parameters.items() if not _is_optional(parameter)],
    }
    function = {"name": tool["name"], "description": tool.get("description", ""), "parameters": schema}
    return {"type": "function", "function": function}


def _parameter(parameter: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: parameter[key] for key in ("description", "default") if parameter.get(key) not in (None, "")}
    return {"type": _json_type(str(parameter.get("type", "str"))), **kept}


def _is_optional(parameter: Mapping[str, Any]) -> bool:
    return "optional" in str(parameter.get("type", "")) or parameter.get("default") not in (None, "")


def _json_type(python_type: str) -> str:
    """JSON Schema's word for a type that the data set writes as Python does, such as `List[int], optional`."""
    head = python_type.partition(",")[0].partition("[")[0].strip().lower()
    words = {
        "str": "string",
        "int": "integer",
        "float": "number",
        "bool": "boolean",
        "list": "array",
        "tuple": "array",
        "set": "array",
        "dict": "object",
    }
    return words.get(head, "string")


def _decode_column(row: Mapping[str, Any], column: str, wanted: type) -> Any:
    """A column that holds a list, or JSON text of one."""
    if column not in row:
        raise RowError("malformed", f"no column {column!r}")
    value = row[column]
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise RowError("malformed", f"{column} is not valid JSON") from None
    if not isinstance(value, wanted):
        raise RowError("malformed", f"{column} is not a {wanted.__name__}")
    return value


SOURCES: dict[Source, KnownSource] = {
    "gsm8k": KnownSource(
        hub="openai/gsm8k", subset="main", columns=("question", "answer"), mapper=_map_pair("question", "answer")
    ),
    "metamath": KnownSource(
        hub="meta-math/MetaMathQA-40K", columns=("query", "response"), mapper=_map_pair("query", "response")
    ),
    "evolinstruct-code": KnownSource(
        hub="nickrosh/Evol-Instruct-Code-80k-v1",
        columns=("instruction", "output"),
        mapper=_map_pair("instruction", "output"),
    ),
    "xlam-function-calling": KnownSource(
        hub="Salesforce/xlam-function-calling-60k", columns=("query", "tools", "answers"), mapper=_map_function_calls
    ),
}
