"""What a suite is: questions that are asked as chats, each with a judge of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether an answer is right."""

    is_right: bool
    """True when it is."""
    reason: str = ""
    """Why it is not."""


class Question(Protocol):
    """One problem, the conversation that asks it, and its judge."""

    @property
    def messages(self) -> Sequence[dict[str, Any]]:
        """The conversation in the form of the chat API, ending with the user's turn."""

    @property
    def tools(self) -> Sequence[dict[str, Any]]:
        """Functions to offer through the chat API; a call is judged as JSON with name and arguments."""

    @property
    def asked(self) -> str:
        """The problem, for people."""

    @property
    def reference(self) -> str:
        """The reference answer."""

    def judge(self, answer: str) -> Verdict:
        """Decide whether an answer is right."""


class Suite(Protocol):
    """Problems with one kind of answer."""

    @property
    def name(self) -> str:
        """Name of the suite."""

    @property
    def questions(self) -> Sequence[Question]:
        """The problems, always in the same order."""

    @property
    def max_new_tokens(self) -> int:
        """Longest answer in tokens."""

    @property
    def left_out(self) -> Sequence[str]:
        """Why rows of its file are no questions of it, each with the row's number."""
