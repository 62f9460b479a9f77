"""Conversations in all the forms that a row may have, for comparing what is trained with what is served."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from prefillshare.training.data.chat import Chat, is_target
from prefillshare.training.data.tokenise import documents_of_chat
from prefillshare.training.layout import segment_bounds

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "required": ["city"],
            "type": "object",
            "properties": {"days": {"type": "int", "default": None}, "city": {"type": "varchar", "description": "Où?"}},
        },
        "description": "Weather of a city",
    },
}
CLOCK = {"function": {"name": "clock", "parameters": None}, "type": "function"}
BARE = {"description": "Nothing more", "name": "stop"}
SYSTEM = {"role": "system", "content": "Be brief. "}
ASKED = {"role": "user", "content": " How warm is it in Oslo?\n"}


def user(content: Any) -> dict[str, Any]:
    """A question."""
    return {"role": "user", "content": content}


def answer(content: Any = "", **fields: Any) -> dict[str, Any]:
    """An assistant's turn."""
    return {"role": "assistant", "content": content, **fields}


def call(arguments: Any, name: str = "weather", **fields: Any) -> dict[str, Any]:
    """A function call."""
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **fields}


RESULT = {"role": "tool", "tool_call_id": "c1", "name": "weather", "content": '{"warm": 7.50}'}
TEXT_ARGUMENTS = '{"days": 1, "city": "Oslo", "exact": 7.50, "to": null}'
CHATS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {
    "plain": ([ASKED, answer("Seven.")], []),
    "system": ([SYSTEM, ASKED, answer("Seven."), user("And Bergen?"), answer("Nine.")], []),
    "tools": ([ASKED, answer("Seven.")], [WEATHER, CLOCK]),
    "system and tools": ([SYSTEM, ASKED, answer("Seven.")], [CLOCK, WEATHER]),
    "call with text": ([ASKED, answer(None, tool_calls=[call(TEXT_ARGUMENTS, id="c1")])], [WEATHER]),
    "call with an object": (
        [ASKED, answer("", tool_calls=[call({"days": 1, "city": "Oslø", "to": None})])],
        [WEATHER],
    ),
    "call and result": (
        [SYSTEM, ASKED, answer(tool_calls=[call(TEXT_ARGUMENTS, id="c1", index=0)]), RESULT, answer("Seven.")],
        [WEATHER],
    ),
    "result in parts": (
        [
            ASKED,
            answer(tool_calls=[call({})]),
            {**RESULT, "content": [{"type": "text", "text": "7"}]},
            answer("Seven."),
        ],
        [WEATHER],
    ),
    "call without a result": ([ASKED, answer(tool_calls=[call({})], weight=0), user("And?"), answer("Seven.")], []),
    "thinking apart": (
        [
            ASKED,
            answer("Seven.", reasoning_content="north,\ncold"),
            user("Sure?"),
            answer("Yes.", reasoning_content="hm"),
        ],
        [],
    ),
    "thinking in content": (
        [ASKED, answer("<think>\nnorth\n</think>\n\nSeven."), user("Sure?"), answer("<think>\nhm\n</think>\n\nYes.")],
        [],
    ),
    "thinking and calls": (
        [
            ASKED,
            answer("", reasoning_content="look", tool_calls=[call(TEXT_ARGUMENTS)]),
            RESULT,
            answer("Seven.", reasoning_content="now I know"),
        ],
        [WEATHER, CLOCK],
    ),
    "parts": ([user([{"type": "text", "text": "How warm"}, {"type": "text", "text": "is it?"}]), answer("Seven.")], []),
    "prefix": ([ASKED, answer("It is ", prefix=True), answer("seven.")], []),
    "prefix later": (
        [SYSTEM, ASKED, answer("Seven."), user("Sure?"), answer("Quite", prefix=True), answer(" sure.")],
        [],
    ),
    "two answers in a row": ([ASKED, answer("A moment."), answer("Seven.")], []),
    "names": ([{**SYSTEM, "name": "boss"}, ASKED, answer("Seven.", name="ida", refusal=None)], []),
}
"""Turns and functions by name."""


def trained_prompts(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any], tokenizer: Any) -> list[list[int]]:
    """The prompt of each answer in the documents that a run would learn."""
    documents = documents_of_chat(Chat(messages=messages, tools=tools).check(), tokenizer, 10_000)
    return [list(document.tokens[:first]) for document in documents for first, _ in segment_bounds(document.weights)]


def calls_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The calls whose answers a row has, as a client would send them."""
    for number, message in enumerate(messages):
        if is_target(message):
            continues = {"continue_final_message": True} if messages[number - 1].get("prefix") else {}
            functions = {"tools": list(tools)} if tools else {}
            yield {"messages": list(messages[:number]), **functions, **continues}
