"""HumanEval: functions to complete, judged by running the problem's own tests in the sandbox.

Its questions, and those of HumanEval+, come from rows of the same shape and differ in the judge only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from prefillshare.datafiles import require_text
from prefillshare.evaluation.base import Question, Verdict
from prefillshare.evaluation.sandbox import Limits, run_function
from prefillshare.evaluation.suites.problem_file import FieldSuite, read_problems

INSTRUCTION = "Complete this Python function. Answer with the whole function in one code block."
MAX_NEW_TOKENS = 768
LIMITS = Limits(cpu_s=10, wall_s=120.0, memory_bytes=512 * 2**20)
_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_JUDGE = "run_the_tests"
_Made = TypeVar("_Made", bound=Question)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionQuestion:
    """One function to complete, however it is judged."""

    asked: str
    """Imports, signature and docstring."""
    reference: str
    """The canonical body."""
    entry_point: str
    """Name of the function."""
    tools: ClassVar[tuple[dict[str, Any], ...]] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"{INSTRUCTION}\n\n```python\n{self.asked}```"}]

    def program(self, answer: str) -> str:
        """An answer as a program: a whole function, or a body to put behind the signature that was asked about."""
        blocks = _BLOCK.findall(answer)
        code = max(blocks, key=len) if blocks else answer
        is_whole = re.search(rf"^\s*def {re.escape(self.entry_point)}\b", code, re.MULTILINE)
        # The prompt also brings imports and helpers; its own function, cut off, is then defined anew.
        return f"{self.asked}    pass\n\n{code}" if is_whole else f"{self.asked}{code}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanEvalQuestion(CompletionQuestion):
    """One that brings its tests."""

    test: str
    """Source of `check(candidate)`, which raises when the function is wrong."""

    def judge(self, answer: str) -> Verdict:
        """Run the tests on the answer.

        Effects: starts a sandbox process.
        """
        ending = f"\n\ndef {_JUDGE}(_):\n    check({self.entry_point})\n    return True\n"
        source = f"{self.program(answer)}\n\n{self.test}{ending}"
        outcome = run_function(source, _JUDGE, [None], LIMITS)
        is_right = outcome.error is None and outcome.values == (True,)
        return Verdict(is_right=is_right, reason="" if is_right else outcome.error or "returned something else")


def load_humaneval(directory: Path | None) -> FieldSuite:
    """The 164 problems (HumanEval.jsonl.gz)."""
    return load_completions(
        "humaneval",
        "HumanEval.jsonl.gz",
        directory,
        lambda row: HumanEvalQuestion(**completion_fields(row), test=require_text(row, "test")),
    )


def load_completions(
    name: str, file: str, directory: Path | None, make: Callable[[Mapping[str, Any]], _Made]
) -> FieldSuite:
    """A suite of functions to complete; `make` adds to `completion_fields` what its judge needs."""
    questions, left_out = read_problems(file, directory, make)
    return FieldSuite(name=name, questions=questions, max_new_tokens=MAX_NEW_TOKENS, left_out=left_out)


def completion_fields(row: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a `CompletionQuestion` in a row.

    Raises: ValueError or KeyError when one is missing or no text.
    """
    return {
        "asked": require_text(row, "prompt"),
        "reference": require_text(row, "canonical_solution"),
        "entry_point": require_text(row, "entry_point"),
    }
