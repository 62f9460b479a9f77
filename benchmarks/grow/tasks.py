"""Eight tasks in sequence: the tiny family's three, four that answer the same questions in another form, each some time
after the one that it resembles, and one that has nothing in common with the others.

The four share what a family of one house shares: its users' words for things, which the base never saw and the tiny
family's three teach with more conversations. Whoever learns one of the four from 100 conversations alone meets each of
these words a few times. `rank` is the control: what came before cannot help it.

Answers have only tokens that the base has seen in its own training. The rows of the others in its tied embedding are as
good as equal, whatever a module does: each would have a loss of the logarithm of their number, in which all that a
module learns is lost, and which of them is said is chance.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from prefillshare.tiny.language.chatml import Turn
from prefillshare.tiny.language.conversations import opening_turns
from prefillshare.tiny.language.tasks import SAMPLERS, Problem, TaskName
from prefillshare.tiny.language.workspace import Workspace, WorkspaceSize, sample_workspace

SIZE = WorkspaceSize(people=(2, 3), functions=(3, 4), constants=(2, 3))
MAX_TRIES = 1000
_STEP = re.compile(r"<<([^>]*)>>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A question and the one right answer."""

    question: str
    """What the user says."""
    answer: str
    """What a module learns to say, and is judged by, letter by letter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task of the sequence."""

    name: str
    """Its name."""
    num_conversations: int
    """Conversations to learn from, each with one to three questions; the last tenth of them is held out."""
    epochs: int
    """Passes over them per cycle."""
    ask: Callable[[Random, Workspace], Asked]
    """Makes a question about a workspace."""


def _plain(task: TaskName) -> Callable[[Random, Workspace], Asked]:
    return _in_form(task, lambda problem: problem.answer)


def _in_form(task: TaskName, answer: Callable[[Problem], str]) -> Callable[[Random, Workspace], Asked]:
    def ask(rng: Random, workspace: Workspace) -> Asked:
        problem = SAMPLERS[task](rng, workspace, "own")
        return Asked(question=problem.asked, answer=answer(problem))

    return ask


def _route(problem: Problem) -> str:
    """Which function it is, and nothing else."""
    return str(problem.judge["call"]["name"])


def _brief(problem: Problem) -> str:
    """The call as a line of code."""
    call = problem.judge["call"]
    return f"{call['name']}({', '.join(f'{name}={value}' for name, value in call['arguments'].items())})"


def _plan(problem: Problem) -> str:
    """The expressions of the function: filter, map, result."""
    *_, wants, changes, returns = (line.strip() for line in problem.answer.splitlines())
    condition = wants.removeprefix("xs = [x for x in xs if ").removesuffix("]")
    change = changes.removeprefix("xs = [").removesuffix(" for x in xs]")
    return f"{condition}, {change}, {returns.removeprefix('return ')}"


def _short(problem: Problem) -> str:
    """The steps without words."""
    return ", ".join(_STEP.findall(problem.answer))


def _rank(rng: Random, workspace: Workspace) -> Asked:
    """People by their boxes."""
    wording, is_falling = rng.choice((("Who towers over whom?", True), ("Queue them up from the bottom.", False)))
    people = sorted(workspace.people, key=lambda person: person.num_boxes, reverse=is_falling)
    return Asked(question=wording, answer=", ".join(f"{person.name} {person.num_boxes}" for person in people))


TASKS = (
    Task(name="tool", num_conversations=200, epochs=6, ask=_plain("tool")),
    Task(name="code", num_conversations=100, epochs=8, ask=_plain("code")),
    Task(name="route", num_conversations=100, epochs=8, ask=_in_form("tool", _route)),
    Task(name="plan", num_conversations=100, epochs=8, ask=_in_form("code", _plan)),
    Task(name="brief", num_conversations=100, epochs=8, ask=_in_form("tool", _brief)),
    Task(name="rank", num_conversations=100, epochs=8, ask=_rank),
    Task(name="math", num_conversations=150, epochs=6, ask=_plain("math")),
    Task(name="short", num_conversations=100, epochs=8, ask=_in_form("math", _short)),
)


def write_task(file: Path, task: Task, seed: int) -> None:
    """Store a task's conversations as JSONL chats.

    Effects: the file appears whole or not at all.
    """
    rows = (json.dumps({"messages": chat}) for chat in islice(_chats(task, seed), task.num_conversations))
    write_whole(file, "\n".join(rows) + "\n")


def write_whole(file: Path, text: str) -> None:
    """Effects: the file appears with all of the text or not at all, also where several processes write it."""
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.rename(file)


def questions(task: Task, num: int) -> list[tuple[list[dict[str, Any]], str]]:
    """Held-out conversations that end with a question, and the right answers; always the same ones."""
    rng = Random(f"grow-questions-{task.name}")
    found: list[tuple[list[dict[str, Any]], str]] = []
    while len(found) < num:
        workspace = sample_workspace(rng, SIZE)
        asked = _sample(rng, task, workspace, is_test=True)
        turns = opening_turns(workspace, asked.question, is_system=True)
        found.append(([{"role": turn.role, "content": turn.content} for turn in turns], asked.answer))
    return found


def _chats(task: Task, seed: int) -> Iterator[list[dict[str, str]]]:
    rng = Random(f"grow-{task.name}-{seed}")
    while True:
        workspace = sample_workspace(rng, SIZE)
        asked = [_sample(rng, task, workspace, is_test=False) for _ in range(rng.randint(1, 3))]
        turns = opening_turns(workspace, asked[0].question, is_system=True)
        turns.append(Turn(role="assistant", content=asked[0].answer))
        for item in asked[1:]:
            turns += [Turn(role="user", content=item.question), Turn(role="assistant", content=item.answer)]
        yield [{"role": turn.role, "content": turn.content} for turn in turns]


def _sample(rng: Random, task: Task, workspace: Workspace, *, is_test: bool) -> Asked:
    for _ in range(MAX_TRIES):
        asked = task.ask(rng, workspace)
        if _is_test(workspace, asked) == is_test:
            return asked
        workspace_is_poor = task.name == "rank"
        if workspace_is_poor:
            # It has two questions only: another one about this workspace may not exist.
            return asked
    raise AssertionError(f"{MAX_TRIES} questions of {task.name} in a row were not of the wanted part")


def _is_test(workspace: Workspace, asked: Asked) -> bool:
    text = "\0".join((workspace.render(), asked.question))
    return hashlib.sha256(text.encode()).digest()[0] < 32
