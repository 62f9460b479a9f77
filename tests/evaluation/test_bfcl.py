"""The leaderboard's real questions: calls built from its answers are right, altered ones wrong."""

import json
import subprocess
import sys
from typing import Any

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.suites import bfcl
from prefillshare.evaluation.suites.answered_calls import parse_calls
from prefillshare.evaluation.suites.bfcl import api_name
from prefillshare.evaluation.suites.registry import load

NUM_QUESTIONS = {"bfcl-simple": 400, "bfcl-multiple": 200}


def chosen(choices: Any) -> Any:
    """The first value that an argument may have; members of a dictionary have choices of their own."""
    value = next(choice for choice in choices if choice != "")
    if isinstance(value, dict):
        return {key: chosen(values) for key, values in value.items() if set(map(str, values)) != {""}}
    if isinstance(value, list):
        return [chosen([item]) if isinstance(item, dict) else item for item in value]
    return value


def right_call(question: Any) -> tuple[str, dict[str, Any]]:
    ((name, arguments),) = question.wanted[0].items()
    return name, {key: chosen(choices) for key, choices in arguments.items() if set(map(str, choices)) != {""}}


def as_python(name: str, arguments: dict[str, Any]) -> str:
    return f"[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]"


def as_json(name: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize("suite", NUM_QUESTIONS)
@pytest.mark.parametrize("write", [as_python, as_json])
def test_answers_of_the_leaderboard_are_right_and_altered_ones_wrong(suite: str, write: Any) -> None:
    questions = load(suite, directory=None, limit=None, may_run_code=False).questions
    assert len(questions) == NUM_QUESTIONS[suite]
    for question in questions:
        name, arguments = right_call(question)
        assert question.judge(write(name, arguments)).is_right, (question.asked, write(name, arguments))
        altered = dict.fromkeys(arguments, "something else")
        for wrong in (
            write(f"{name}_", arguments),
            write(name, {**arguments, "surplus": 1}),
            write(name, altered) if arguments else "",
            f"{write(name, arguments)} and more",
            "",
        ):
            verdict = question.judge(wrong)
            assert not verdict.is_right
            assert verdict.reason


def test_functions_stand_in_the_prompt() -> None:
    suite = load("bfcl-multiple", directory=None, limit=3, may_run_code=False)
    assert len(suite.questions) == 3
    for question in suite.questions:
        system, user = question.messages
        assert all(function["name"] in system["content"] for function in question.functions)
        assert user["content"] == question.asked
        assert not question.tools


def test_functions_are_offered_as_tools_under_names_that_the_api_allows() -> None:
    suite = load("bfcl-simple", directory=None, limit=None, may_run_code=False, offers_tools=True)
    question = next(question for question in suite.questions if question.functions[0]["name"] == "math.factorial")
    (tool,) = question.tools
    assert tool["function"]["name"] == "math_factorial"
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "number": {
                "type": "integer",
                "description": "The number for which factorial needs to be calculated.",
            }
        },
        "required": ["number"],
    }
    assert [message["role"] for message in question.messages] == ["user"]
    assert question.judge('[{"name": "math_factorial", "arguments": {"number": 5}}]').is_right
    assert not question.judge('[{"name": "math_factorial", "arguments": {"number": 6}}]').is_right
    names = {api_name(function["name"]) for question in suite.questions for function in question.functions}
    assert all(len(name) <= 64 and name.replace("-", "_").isidentifier() for name in names)


@pytest.mark.parametrize(
    ("answer", "calls"),
    [
        ('{"name": "f", "arguments": {"a": 1}}', [("f", {"a": 1})]),
        ('<tool_call>\n{"name": "f", "arguments": {"a": [1, "x"]}}\n</tool_call>', [("f", {"a": [1, "x"]})]),
        ('```json\n[{"name": "f", "parameters": {}}]\n```', [("f", {})]),
        ("a.b.f(x=-1.5, y={'k': [True, None]})", [("a.b.f", {"x": -1.5, "y": {"k": [True, None]}})]),
        ("[f(x=1), g(y='two')]", [("f", {"x": 1}), ("g", {"y": "two"})]),
        ("f(x=today)", [("f", {"x": "today"})]),
    ],
)
def test_calls_are_read_as_models_write_them(answer: str, calls: Any) -> None:
    assert parse_calls(answer) == calls


@pytest.mark.parametrize(
    "answer", ["", "I cannot.", "f(1)", "f(**x)", "[1, 2]", '{"name": "f"}', "<tool_call>{</tool_call>", "(" * 5000]
)
def test_what_is_no_call_is_refused(answer: str) -> None:
    with pytest.raises(ValueError, match=r"is |Expecting"):
        parse_calls(answer)


def test_other_suites_have_no_functions_to_offer() -> None:
    with pytest.raises(EvaluationError, match="tiny-tool has no functions to offer"):
        load("tiny-tool", directory=None, limit=1, may_run_code=False, offers_tools=True)


def test_without_the_package_the_message_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['bfcl_eval'] = None\n"
        "from prefillshare.evaluation.suites.registry import load\n"
        "load('bfcl-simple', directory=None, limit=1, may_run_code=False)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert f"pip install --no-deps {bfcl.PACKAGE}" in done.stderr
