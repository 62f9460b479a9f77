"""A chat as every data set becomes one, and why a row cannot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from prefillshare.errors import short_repr

Reason = Literal["too long", "empty", "malformed"]
REASONS: tuple[Reason, ...] = ("too long", "empty", "malformed")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")


class RowError(Exception):
    """One row cannot be trained on."""

    def __init__(self, reason: Reason, detail: str, *, is_end: bool = False) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail
        self.is_end = is_end
        """Whether its file ends there before its time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """A conversation in the form of the chat API."""

    messages: Sequence[Mapping[str, Any]]
    """Turns; each of the assistant is a target, unless it says `"weight": 0`, or `"prefix": true`, as a start."""
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
        if not any(is_target(message) for message in self.messages):
            raise RowError("empty", "no assistant turn to learn")
        if self.messages[0]["role"] == "assistant":
            raise RowError("malformed", "the first turn is the assistant's: there is no prompt")
        for number, (message, following) in enumerate(pairwise(self.messages), start=1):
            if message.get("prefix") and (not is_target(following) or following.get("reasoning_content")):
                raise RowError(
                    "malformed",
                    f"turn {number} is a prefix, and turn {number + 1} is not an answer that it could begin",
                )
        return self


def is_target(message: Mapping[str, Any]) -> bool:
    """Whether a turn is one to learn."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) and not message.get("prefix"))


def _check_turn(number: int, message: Any) -> None:
    if not isinstance(message, Mapping) or message.get("role") not in ROLES:
        raise RowError("malformed", f"turn {number} is {short_repr(message)}: it needs a role of {', '.join(ROLES)}")
    weight = message.get("weight", 1)
    if weight not in (0, 1) or (message["role"] != "assistant" and "weight" in message):
        raise RowError(
            "malformed",
            f"turn {number} has weight {short_repr(weight)}: it must be 0 or 1, and only assistant turns may have one",
        )
    _check_prefix(number, message)
    content, calls = message.get("content"), message.get("tool_calls")
    if content is not None and not isinstance(content, str) and not _is_parts(content):
        raise RowError("malformed", f"turn {number} has content {short_repr(content)}, not text")
    if _is_blank(content) and not calls and message["role"] in ("user", "assistant"):
        raise RowError("empty", f"turn {number}, the {message['role']}'s, is empty")


def _check_prefix(number: int, message: Mapping[str, Any]) -> None:
    prefix = message.get("prefix", False)
    if not isinstance(prefix, bool) or (prefix and message["role"] != "assistant"):
        raise RowError(
            "malformed",
            f"turn {number} has prefix {short_repr(prefix)}: it must be true or false, and only assistant turns may "
            "have one",
        )
    if prefix and not isinstance(message.get("content"), str):
        raise RowError(
            "malformed", f"turn {number} is a prefix and has content {short_repr(message.get('content'))}, not text"
        )


def _is_parts(content: Any) -> bool:
    return isinstance(content, list) and all(isinstance(part, Mapping) and "type" in part for part in content)


def _is_blank(content: Any) -> bool:
    texts = [content] if isinstance(content, str) else [str(part.get("text", "")) for part in content or ()]
    return not "".join(texts).strip()


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
        raise RowError("malformed", f"{column} is {short_repr(value)}, not text")
    if not value.strip():
        raise RowError("empty", f"{column} is blank")
    return value
