"""HumanEval+ on a small file in the form of EvalPlus's release: what passes the few inputs fails by the many."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Question
from prefillshare.evaluation.suites import humaneval_plus
from prefillshare.evaluation.suites.humaneval_plus import FILE
from prefillshare.evaluation.suites.registry import load

ROWS = [
    {
        "task_id": "Own/0",
        "prompt": 'def largest(numbers: list):\n    """The largest number."""\n',
        "canonical_solution": "    return max(numbers)\n",
        "entry_point": "largest",
        "base_input": [[[1, 2, 3]], [[5]]],
        "plus_input": [[[-3, -1, -2]], [list(range(200))]],
        "atol": 0,
    },
    {
        "task_id": "Own/1",
        "prompt": 'def halves(numbers: list):\n    """Half of each number."""\n',
        "canonical_solution": "    return [number / 2 for number in numbers]\n",
        "entry_point": "halves",
        "base_input": [[[1, 2]]],
        "plus_input": [[[3.5, 0.1]], [[]]],
        "atol": 0,
    },
    {
        "task_id": "Own/2",
        "prompt": 'def find_zero(xs: list):\n    """A zero of xs[0] + xs[1] x + ..."""\n',
        "canonical_solution": "    return -xs[0] / xs[1]\n",
        "entry_point": "find_zero",
        "base_input": [[[1, 2]]],
        "plus_input": [[[-6, 11, -6, 1]]],
        "atol": 0.0001,
    },
]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Question]:
    directory = tmp_path_factory.mktemp("data")
    with gzip.open(directory / FILE, "wt") as file:
        file.write("".join(json.dumps(row) + "\n" for row in ROWS))
    suite = load("humaneval+", directory=directory, limit=None, may_run_code=True)
    return {question.entry_point: question for question in suite.questions}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "answer", "is_right"),
    [
        ("largest", "    return max(numbers)\n", True),
        ("largest", "```python\ndef largest(numbers):\n    return sorted(numbers)[-1]\n```", True),
        ("largest", "    return max(0, *numbers)\n", False),
        ("largest", "    numbers.append(0)\n    return max(numbers[:-1])\n", True),
        ("largest", "    return numbers[\n", False),
        ("largest", "    while True: pass\n", False),
        ("largest", "", False),
        ("halves", "    return [number * 0.5 + 1e-9 for number in numbers]\n", True),
        ("halves", "    return [number * 0.5 + 1e-3 for number in numbers]\n", False),
        ("halves", "    return tuple(number / 2 for number in numbers)\n", False),
        ("halves", "    return [number / 2 for number in numbers][:1]\n", False),
        ("find_zero", "    return 1.00001 if len(xs) == 4 else -0.5\n", True),
        ("find_zero", "    return -xs[0] / xs[1]\n", False),
        ("find_zero", "    return 'x'\n", False),
    ],
)
def test_answers_are_judged_by_all_inputs(
    questions: dict[str, Question], name: str, answer: str, is_right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(humaneval_plus, "LIMITS", replace(humaneval_plus.LIMITS, cpu_s=2))
    verdict = questions[name].judge(answer)
    assert verdict.is_right == is_right, verdict
    assert is_right == (not verdict.reason)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=FILE):
        load("humaneval+", directory=tmp_path, limit=None, may_run_code=True)
    with pytest.raises(EvaluationError, match="--allow-code-execution"):
        load("humaneval+", directory=tmp_path, limit=None, may_run_code=False)
