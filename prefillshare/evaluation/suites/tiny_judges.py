"""Decides whether an answer is right; one judge per task."""

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.sandbox import run_function
from prefillshare.tiny.language.tasks import Problem, TaskName
from prefillshare.tiny.language.tasks.code import CASES

FINAL = re.compile(r"####\s*(-?\d+)\s*$")


def judge(problem: Problem, answer: str) -> Verdict:
    """Judge an answer to a problem of any task."""
    return JUDGES[problem.task](problem, answer.strip())


def _judge_math(problem: Problem, answer: str) -> Verdict:
    """The number after the last `####` decides."""
    found = FINAL.search(answer)
    if found is None:
        return Verdict(is_right=False, reason="does not end with #### and a number")
    given, wanted = int(found.group(1)), problem.judge["final"]
    return Verdict(is_right=given == wanted, reason="" if given == wanted else f"{given} instead of {wanted}")


def _judge_tool(problem: Problem, answer: str) -> Verdict:
    """The whole answer is JSON equal to the call, types included; the order of keys does not matter."""
    try:
        given = json.loads(answer)
    except ValueError:
        return Verdict(is_right=False, reason="is not JSON")
    is_right = _canonical(given) == _canonical(problem.judge["call"])
    return Verdict(is_right=is_right, reason="" if is_right else "is another call")


def _judge_code(problem: Problem, answer: str) -> Verdict:
    """The function returns what the reference returns on every hidden case."""
    function = problem.judge["function"]
    outcome = run_function(answer, function, _cases())
    if outcome.error:
        return Verdict(is_right=False, reason=outcome.error)
    is_right = _canonical(outcome.values) == _run_reference(problem.judge["reference"], function)
    return Verdict(is_right=is_right, reason="" if is_right else "returns something else")


@cache
def _run_reference(reference: str, function: str) -> str:
    outcome = run_function(reference, function, _cases())
    assert outcome.error is None, f"the reference answer fails: {outcome.error}"
    return _canonical(outcome.values)


def _cases() -> list[Any]:
    return [list(case) for case in CASES]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


JUDGES: dict[TaskName, Callable[[Problem, str], Verdict]] = {
    "math": _judge_math,
    "tool": _judge_tool,
    "code": _judge_code,
}
