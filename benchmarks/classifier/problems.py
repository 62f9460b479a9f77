"""Held-out questions of the tiny family, asked in ways of growing difficulty for whoever must choose a module.

`as asked` are the suites' own prompts. In `plain` the last question has the plain words of the corpus, which no
training of the classifier holds; `first turn` has no system turn and no earlier questions; `another first` has a
question for another module before the last one in the same turn, which is taken back.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

from prefillshare.tiny.language.chatml import Turn, generation_prompt
from prefillshare.tiny.language.conversations import (
    TASKS,
    Conversation,
    held_out_conversations,
    opening_turns,
    sample_problem,
)
from prefillshare.tiny.language.tasks import TaskName

SEED = 20260212
"""That of the suites."""
TAKEN_BACK = "No, forget that. What I want:"

Ask = Callable[[Conversation, Random], list[Turn]]


def _as_asked(conversation: Conversation, rng: Random) -> list[Turn]:
    return conversation.turns(has_last_answer=False)


def _plain(conversation: Conversation, rng: Random) -> list[Turn]:
    last = conversation.problems[-1]
    plain = sample_problem(rng, last.workspace, last.task, "test", "plain")
    return Conversation(problems=(*conversation.problems[:-1], plain), is_system=conversation.is_system).turns(
        has_last_answer=False
    )


def _first_turn(conversation: Conversation, rng: Random) -> list[Turn]:
    last = conversation.problems[-1]
    return opening_turns(last.workspace, last.asked, is_system=False)


def _another_first(conversation: Conversation, rng: Random) -> list[Turn]:
    last = conversation.problems[-1]
    other = sample_problem(rng, last.workspace, rng.choice([task for task in TASKS if task != last.task]), "train")
    *before, turn = conversation.turns(has_last_answer=False)
    content = turn.content.removesuffix(last.asked) + f"{other.asked}\n{TAKEN_BACK}\n{last.asked}"
    return [*before, Turn(role=turn.role, content=content)]


WAYS: dict[str, Ask] = {
    "as asked": _as_asked,
    "plain": _plain,
    "first turn": _first_turn,
    "another first": _another_first,
}


def conversations(task: TaskName, way: str, num_problems: int) -> Iterator[list[Turn]]:
    """Yield the turns up to the last question, always the same ones."""
    rng = Random(f"{way}-{task}")
    for conversation in islice(held_out_conversations(SEED, task), num_problems):
        yield WAYS[way](conversation, rng)


def render(turns: list[Turn]) -> str:
    """Return the prompt as the chat template writes it."""
    return generation_prompt(turns)
