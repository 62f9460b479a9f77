"""Judges accept right answers in any wording and refuse wrong ones."""

import json

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.driver import score_answers
from prefillshare.evaluation.statistics import wilson_interval
from prefillshare.evaluation.suites.tiny import load_suite, suite_names
from prefillshare.evaluation.suites.tiny_judges import judge
from prefillshare.evaluation.tiny_table import BEGIN, END, Row, markdown_table, write_between_markers

NUM = 12


@pytest.mark.parametrize("name", suite_names())
def test_references_are_right_and_remarks_are_wrong(name):
    for question in load_suite(name, NUM).questions:
        problem = question.problem
        assert judge(problem, problem.answer).is_right, problem.answer
        assert not judge(problem, problem.remark).is_right
        assert not judge(problem, "").is_right


def problems(name):
    return [question.problem for question in load_suite(name, NUM).questions]


def test_math_counts_the_last_number_only():
    for problem in problems("tiny-math"):
        final = problem.judge["final"]
        assert judge(problem, f"so\n#### {final}").is_right
        assert not judge(problem, f"so\n#### {final + 1}").is_right
        assert not judge(problem, f"the answer is {final}").is_right
        assert not judge(problem, f"#### {final}\n#### {final + 1}").is_right


def test_tool_compares_parsed_calls_with_types():
    for problem in problems("tiny-tool"):
        call = problem.judge["call"]
        turned = {"arguments": dict(reversed(call["arguments"].items())), "name": call["name"]}
        assert judge(problem, json.dumps(turned, indent=2)).is_right
        assert not judge(problem, json.dumps({**call, "name": "other"})).is_right
        assert not judge(problem, json.dumps({**call, "arguments": {}})).is_right
        as_text = {name: str(value) for name, value in call["arguments"].items()}
        assert judge(problem, json.dumps({**call, "arguments": as_text})).is_right == (as_text == call["arguments"])
        assert not judge(problem, json.dumps(call) + " done").is_right


def test_code_is_run_not_compared():
    for problem in problems("tiny-code")[:4]:
        function = problem.judge["function"]
        other_text = problem.answer.replace(" x ", " value ").replace("[x ", "[value ").replace("[-x", "[-value")
        assert judge(problem, problem.answer.replace("    ", "  ")).is_right
        assert not judge(problem, f"def {function}(xs):\n    return 'no'").is_right
        assert not judge(problem, problem.answer.replace(function, "other")).is_right
        assert other_text != problem.answer


def test_suites_are_fixed():
    for name in suite_names():
        assert load_suite(name, NUM).questions == load_suite(name, 2 * NUM).questions[:NUM]
    with pytest.raises(EvaluationError, match="tiny-math"):
        load_suite("tiny-maths")


def test_wilson_interval():
    low, high = wilson_interval(450, 500)
    assert (round(low, 4), round(high, 4)) == (0.8706, 0.9233)
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_table_lands_between_its_markers(tmp_path):
    suite = load_suite("tiny-math", 4)
    answers = [question.problem.answer for question in suite.questions[:3]]
    table = markdown_table([Row(label="all", scores=(score_answers(suite, "math", [*answers, "no"]),))])
    assert "75.0% (3/4" in table
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_between_markers(readme, table)
    assert readme.read_text() == f"before\n{BEGIN}\n{table}\n{END}\nafter\n"
    readme.write_text("nothing")
    with pytest.raises(EvaluationError, match="lacks the lines"):
        write_between_markers(readme, table)
