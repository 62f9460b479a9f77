"""A chat as every data set becomes one, and why a row cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Reason = Literal["too long", "empty", "malformed"]
REASONS: tuple[Reason, ...] = ("too long", "empty", "malformed")
ROLES = ("system", "user", "assistant", "tool")


class RowError(Exception):
    """One row cannot be trained on."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation in the form of the chat API."""

    messages: Sequence[Mapping[str, Any]]
    """Turns; every assistant turn is a target, unless it says `"weight": 0`."""
    tools: Sequence[Mapping[str, Any]] = field(default=())
    """Function signatures in the form of the chat API."""

    def check(self) -> "Chat":
        """Return the chat itself.

        Raises: RowError for turns that no template could render, or that leave nothing to learn.
        """
        if not self.messages:
            raise RowError("empty", "no turns")
        for number, message in enumerate(self.messages, start=1):
            _check_turn(number, message)
        if not any(message["role"] == "assistant" and message.get("weight", 1) for message in self.messages):
            raise RowError("empty", "no assistant turn to learn")
        if self.messages[0]["role"] == "assistant":
            raise RowError("malformed", "the first turn is the assistant's: there is no prompt")
        return self


def _check_turn(number: int, message: Any) -> None:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise RowError("malformed", f"turn {number} is {_short(message)}: it needs a role of {', '.join(ROLES)}")
    weight = message.get("weight", 1)
    if weight not in (0, 1) or (message["role"] != "assistant" and "weight" in message):
        raise RowError("malformed", f"turn {number} has weight {_short(weight)}: 0 or 1, of assistant turns only")
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None and not isinstance(content, str):
        raise RowError("malformed", f"turn {number} has content {_short(content)}, not text")
    if not (content or "").strip() and not calls and message["role"] != "system":
        raise RowError("empty", f"turn {number}, the {message['role']}'s, is empty")


def text_of(row: Mapping[str, Any], column: str) -> str:
    """The text in a column.

    Raises: RowError when it is missing, no text, or blank.
    """
    if column not in row:
        raise RowError("malformed", f"no column {column!r}")
    value = row[column]
    if value is None or value == "":
        raise RowError("empty", f"{column} is empty")
    if not isinstance(value, str):
        raise RowError("malformed", f"{column} is {_short(value)}, not text")
    if not value.strip():
        raise RowError("empty", f"{column} is blank")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
