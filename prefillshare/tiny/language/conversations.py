"""Conversations about one workspace: what modules are tuned on and asked, each question a problem for one of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from prefillshare.tiny.language.chatml import Turn
from prefillshare.tiny.language.tasks import SAMPLERS, Problem, Split, TaskName, Wording, split_of
from prefillshare.tiny.language.workspace import Workspace, WorkspaceSize, sample_workspace

TASKS: tuple[TaskName, ...] = ("math", "tool", "code")
MAX_TRIES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Problems asked one after the other about one workspace."""

    problems: tuple[Problem, ...]
    """In the order of asking; all about the same workspace."""
    is_system: bool
    """Whether the workspace stands in a system turn, or at the head of the first user turn."""

    def turns(self, *, has_last_answer: bool = True) -> list[Turn]:
        """The turns as modules see them; without the last answer it is a prompt."""
        opening = opening_turns(self.problems[0].workspace, self.problems[0].asked, is_system=self.is_system)
        turns = [*opening, _answer(self.problems[0])]
        for problem in self.problems[1:]:
            turns += [Turn(role="user", content=problem.asked), _answer(problem)]
        return turns if has_last_answer else turns[:-1]


def opening_turns(workspace: Workspace, question: str, *, is_system: bool) -> list[Turn]:
    """The turns up to and with the first question."""
    if is_system:
        return [Turn(role="system", content=workspace.render()), Turn(role="user", content=question)]
    return [Turn(role="user", content=f"{workspace.render()}\n\n{question}")]


def sample_problem(
    rng: Random, workspace: Workspace, task: TaskName, split: Split, wording: Wording = "own"
) -> Problem:
    """A problem of the task about the workspace that belongs to the split."""
    for _ in range(MAX_TRIES):
        problem = SAMPLERS[task](rng, workspace, wording)
        if split_of(problem) == split:
            return problem
    raise AssertionError(f"{MAX_TRIES} {task} problems in a row were not of split {split}")


def tuning_conversations(seed: int, task: TaskName) -> Iterator[Conversation]:
    """Endless conversations of the train split in which most questions are for `task`."""
    rng = Random(f"tuning-{task}-{seed}")
    while True:
        workspace = sample_workspace(rng, WorkspaceSize())
        tasks = [task if rng.random() < 0.75 else rng.choice(TASKS) for _ in range(rng.randint(3, 5))]
        problems = tuple(sample_problem(rng, workspace, asked, "train") for asked in tasks)
        yield Conversation(problems=problems, is_system=rng.random() < 0.75)


def held_out_conversations(seed: int, task: TaskName) -> Iterator[Conversation]:
    """Endless prompts of the test split: up to two earlier questions for any module, the last one for `task`."""
    rng = Random(f"held-out-{task}-{seed}")
    while True:
        workspace = sample_workspace(rng, WorkspaceSize())
        earlier = [sample_problem(rng, workspace, rng.choice(TASKS), "train") for _ in range(rng.randint(0, 2))]
        asked = sample_problem(rng, workspace, task, "test")
        yield Conversation(problems=(*earlier, asked), is_system=rng.random() < 0.75)


def _answer(problem: Problem) -> Turn:
    return Turn(role="assistant", content=problem.answer)
