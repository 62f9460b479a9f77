"""What a problem is, and which split it belongs to."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from prefillshare.tiny.language.workspace import Workspace

TaskName = Literal["math", "tool", "code"]
Split = Literal["train", "test"]
Wording = Literal["plain", "own"]
"""How a question is asked: in the plain words of the pretraining corpus, or in users' own words that the base never saw
and only fine-tuning teaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One question about a workspace, with the answer that a decode module learns to give."""

    task: TaskName
    """Which decode module it is for."""
    workspace: Workspace
    """The shared context that it is asked about."""
    question: str
    """What the user wants to know."""
    quote: str = ""
    """Lines of the workspace that the user repeats before the question, so that a small model need not search."""
    answer: str
    """The reference answer in the asked form."""
    remark: str
    """What a generalist says instead: the facts concerned, without solving anything."""
    judge: dict[str, Any] = field(default_factory=dict)
    """What the judge needs: `final`, `call`, or `function` and `cases`."""

    @property
    def asked(self) -> str:
        """What the user says."""
        return f"{self.quote}\n{self.question}" if self.quote else self.question


Sampler = Callable[[Random, Workspace, Wording], Problem]


def split_of(problem: Problem) -> Split:
    """The split that a problem belongs to: decided by its text alone, so no two generators can disagree."""
    text = "\0".join((problem.task, problem.workspace.render(), problem.question))
    return "test" if hashlib.sha256(text.encode()).digest()[0] < 32 else "train"
