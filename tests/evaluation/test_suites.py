"""The field's suites on their real files: references are right, broken answers wrong. Collected only with the data."""

import re
from decimal import Decimal
from pathlib import Path

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.suites.gsm import final_number
from prefillshare.evaluation.suites.registry import load

DATA = Path(__file__).parents[3] / "shared" / "data"
NUM_RUN = 12
"""Every so many HumanEval problems are run; each costs two processes."""


@pytest.mark.parametrize(("name", "num", "num_left_out"), [("gsm8k", 1319, 0), ("gsm-plus", 2099, 301)])
def test_references_of_word_problems_are_right(name: str, num: int, num_left_out: int) -> None:
    suite = load(name, directory=DATA, limit=None, may_run_code=False)
    assert len(suite.questions) + len(suite.left_out) == num + num_left_out
    wrong = [question.asked for question in suite.questions if not question.judge(f"#### {question.final}").is_right]
    assert wrong == []
    assert not any(question.judge(f"#### {question.final + 1}").is_right for question in suite.questions)
    assert not any(question.judge("I do not know.").is_right for question in suite.questions)
    assert all(question.asked in question.messages[-1]["content"] for question in suite.questions)


def test_references_of_gsm8k_are_right_as_written() -> None:
    suite = load("gsm8k", directory=DATA, limit=None, may_run_code=False)
    assert [question.asked for question in suite.questions if not question.judge(question.reference).is_right] == []


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so it is 3 + 4\n#### 7", "7"),
        ("#### $1,234.50", "1234.50"),
        ("#### -3 apples", "-3"),
        ("The answer is 12.", "12"),
        ("#### none, but 5 before", "5"),
        ("first 1 then 2", "2"),
        ("nothing", None),
    ],
)
def test_final_number(answer: str, number: str | None) -> None:
    assert final_number(answer) == (None if number is None else Decimal(number))


def test_canonical_solutions_pass_and_broken_ones_fail() -> None:
    suite = load("humaneval", directory=DATA, limit=None, may_run_code=True)
    assert len(suite.questions) == 164
    # Those that import what the sandbox must have at hand are always among them.
    needy = [
        question
        for question in suite.questions
        if re.search(r"^\s*(import|from) (copy|hashlib)", question.asked + question.reference + question.test, re.M)
    ]
    assert len(needy) == 3
    for question in [*needy, *suite.questions[::NUM_RUN]]:
        whole = f"Here it is:\n```python\n{question.asked}{question.reference}```\nDone."
        assert question.judge(whole).is_right, question.entry_point
        broken = f"```python\ndef {question.entry_point}(*arguments):\n    return None\n```"
        assert not question.judge(broken).is_right, question.entry_point


def test_a_body_alone_and_endless_code_are_judged() -> None:
    question = load("humaneval", directory=DATA, limit=1, may_run_code=True).questions[0]
    assert question.judge(question.reference).is_right
    assert not question.judge("    return open('/etc/shadow').read()\n").is_right
    assert question.judge("I cannot.").reason.startswith("SyntaxError")


def test_code_runs_only_with_permission() -> None:
    for name in ("humaneval", "tiny-code"):
        with pytest.raises(EvaluationError, match="--allow-code-execution"):
            load(name, directory=DATA, limit=1, may_run_code=False)


def test_unknown_suites_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"there is no suite 'gsm8': did you mean 'gsm8k'\?"):
        load("gsm8", directory=DATA, limit=None, may_run_code=False)
    with pytest.raises(EvaluationError, match=r"gsm8k_test\.jsonl does not exist"):
        load("gsm8k", directory=tmp_path, limit=None, may_run_code=False)
