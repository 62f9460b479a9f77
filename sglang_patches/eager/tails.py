"""Ends of prompts that the next prompt has not got: a role instruction that each call puts behind the conversation.

    call          task | plan this                 answer A
    next call     task | A | criticise the plan    answer B
    the one after task | A | B | write it down

What follows answer B is then ``task | A | B``, without the instruction that B was asked with. That is known only by
comparison: here A stands where the end of an earlier prompt had been. So each answer is remembered with every beginning
of its prompt that leaves out some of the turns behind the last answer. Of the thread that renders only.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.entrypoints.openai.protocol import ChatCompletionMessageParam

MAX_REMEMBERED = 4096
MAX_TAIL = 4
"""Turns behind the last answer of which it is asked whether they come back."""
ANSWER = "assistant"


class Tails:
    """Remembers what answers were given to, as digests."""

    def __init__(self) -> None:
        self._left_out: OrderedDict[bytes, int] = OrderedDict()

    def note(self, messages: Sequence[ChatCompletionMessageParam], answer: str) -> None:
        """A call with `messages` was answered so."""
        digests = list(_digest_starts(messages))
        for num_left_out in range(min(count_tail(messages), MAX_TAIL) + 1):
            key = _digest_answer(digests[len(messages) - num_left_out], answer)
            self._left_out[key] = num_left_out
            self._left_out.move_to_end(key)
        while len(self._left_out) > MAX_REMEMBERED:
            self._left_out.popitem(last=False)

    def count_vanishing(self, messages: Sequence[ChatCompletionMessageParam]) -> int:
        """How many turns at the end of `messages` the next prompt will lack: as many as the last one that is known."""
        found = 0
        for digest, message in zip(_digest_starts(messages), messages, strict=False):
            if message.role == ANSWER:
                found = self._left_out.get(_digest_answer(digest, _read_text(message)), found)
        return found if found <= count_tail(messages) else 0


def count_tail(messages: Sequence[ChatCompletionMessageParam]) -> int:
    """Turns behind the last answer; none where the results of a function are among them."""
    for number, message in enumerate(reversed(messages)):
        if message.role == ANSWER:
            return number
        if message.role not in ("user", "system", "developer"):
            return 0
    return len(messages)


def _digest_starts(messages: Sequence[ChatCompletionMessageParam]) -> list[bytes]:
    """Of each beginning of `messages`, from none of them to all."""
    digest = hashlib.blake2b(digest_size=16)
    digests = [digest.digest()]
    for message in messages:
        # Of an answer its text alone: thinking and ids may come back otherwise than they went.
        content = _read_text(message) if message.role == ANSWER else repr(message.content)
        digest.update(repr((message.role, content)).encode("utf-8", "surrogatepass"))
        digests.append(digest.digest())
    return digests


def _digest_answer(start: bytes, answer: str) -> bytes:
    return hashlib.blake2b(answer.encode("utf-8", "surrogatepass"), key=start, digest_size=16).digest()


def _read_text(message: ChatCompletionMessageParam) -> str:
    return message.content if isinstance(message.content, str) else ""
