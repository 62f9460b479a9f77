"""The suites `tiny-math`, `tiny-tool`, `tiny-code`: fixed held-out problems asked as chat conversations."""

from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.suites.tiny_judges import judge
from prefillshare.tiny.language.conversations import TASKS, held_out_conversations
from prefillshare.tiny.language.tasks import Problem, TaskName

SUITE_SEED = 20260212
MAX_NEW_TOKENS = 128
PREFIX = "tiny-"


@dataclass(frozen=True, slots=True, kw_only=True)
class TinyQuestion:
    """One problem and the conversation that asks it."""

    problem: Problem
    """What the judge decides on."""
    messages: tuple[dict[str, Any], ...]
    """The conversation in the form of the chat API, ending with the user's turn."""
    tools: ClassVar[tuple[dict[str, Any], ...]] = ()

    @property
    def asked(self) -> str:
        return self.problem.asked

    @property
    def reference(self) -> str:
        return self.problem.answer

    def judge(self, answer: str) -> Verdict:
        """Decide whether an answer is right."""
        return judge(self.problem, answer)


@dataclass(frozen=True, slots=True, kw_only=True)
class TinySuite:
    """Held-out problems of one task."""

    name: str
    """Name of the suite."""
    task: TaskName
    """Its task, which is also the name of the module that should solve it."""
    questions: tuple[TinyQuestion, ...]
    """The problems."""
    max_new_tokens: int = MAX_NEW_TOKENS
    """Longest answer in tokens."""
    left_out: ClassVar[tuple[str, ...]] = ()


def suite_names() -> list[str]:
    """Names of all suites."""
    return [f"{PREFIX}{task}" for task in TASKS]


def load_suite(name: str, num_problems: int = 500, seed: int = SUITE_SEED) -> TinySuite:
    """The first `num_problems` problems of a suite; always the same ones.

    Another seed gives other held-out problems of the same kind, to choose settings by.

    Raises: EvaluationError for an unknown name.
    """
    task = next((task for task in TASKS if f"{PREFIX}{task}" == name), None)
    if task is None:
        raise EvaluationError(f"there is no suite {name!r}: choose one of {', '.join(suite_names())}")
    asked = islice(held_out_conversations(seed, task), num_problems)
    questions = tuple(
        TinyQuestion(
            problem=conversation.problems[-1],
            messages=tuple(
                {"role": turn.role, "content": turn.content} for turn in conversation.turns(has_last_answer=False)
            ),
        )
        for conversation in asked
    )
    return TinySuite(name=name, task=task, questions=questions)
