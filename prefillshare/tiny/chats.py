"""The tiny family's conversations as a training file reads them."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from prefillshare.tiny.language.conversations import Conversation, tuning_conversations
from prefillshare.tiny.language.tasks import TaskName


def write_conversations(file: Path, task: TaskName, seed: int, num: int) -> None:
    """Store `num` conversations as JSONL chats in which only the answers to `task` are learned.

    Effects: the file appears whole or not at all.
    """
    partial = file.with_name(f"partial-{file.name}")
    with partial.open("w", encoding="utf-8") as lines:
        for messages in islice(_chats(task, seed), num):
            lines.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    partial.rename(file)


def _chats(task: TaskName, seed: int) -> Iterator[list[dict[str, Any]]]:
    for conversation in tuning_conversations(seed, task):
        if any(problem.task == task for problem in conversation.problems):
            yield list(_messages(conversation, task))


def _messages(conversation: Conversation, task: TaskName) -> Iterator[dict[str, Any]]:
    asked = iter(conversation.problems)
    for turn in conversation.turns():
        message: dict[str, Any] = {"role": turn.role, "content": turn.content}
        if turn.role == "assistant" and next(asked).task != task:
            message["weight"] = 0
        yield message
