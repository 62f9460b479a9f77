"""Workloads follow from their seed, share exactly the prefixes they should, and fit the context window."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from prefillshare.bench.workloads.base import Session, Shape, Workload
from prefillshare.bench.workloads.factory import make_workload
from prefillshare.bench.workloads.gsm8k import read_questions
from prefillshare.errors import BenchError
from tests.support.engines import MODELS_DIR

MODULES = ("a", "b", "c")
SHAPE = Shape(num_sessions=4, start_tokens=50, growth_tokens=7, output_tokens=(3, 5), turns=6, vocab_size=300)
TOKENIZER = MODELS_DIR / "tiny" / "base" / "tokenizer.json"


def _prompts(session: Session) -> list[tuple[int, ...]]:
    """The prompts of a session whose outputs are made of the token 5."""
    context: tuple[int, ...] = ()
    prompts = []
    for step in session.steps:
        context += step.added
        prompts.append(context + step.role)
        context += (5,) * step.output_tokens
    return prompts


def _common(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    return next((i for i, (token, other) in enumerate(zip(left, right, strict=False)) if token != other), len(left))


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [{"question": f"Omar has {number} boxes. How many?", "answer": f"#### {number}"} for number in range(40)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def trace_file(tmp_path: Path) -> Path:
    """Calls 0 and 1 share two blocks, call 2 shares one, call 3 none."""
    rows = [
        {"timestamp": 0, "input_length": 1500, "output_length": 10, "hash_ids": [1, 2, 3]},
        {"timestamp": 500, "input_length": 2000, "output_length": 40, "hash_ids": [1, 2, 4, 5]},
        {"timestamp": 500, "input_length": 600, "output_length": 1, "hash_ids": [1, 6]},
        {"timestamp": 3000, "input_length": 30, "output_length": 9, "hash_ids": [7]},
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def _make(name: str, shape: Shape, questions: Path, trace_file: Path) -> Workload:
    file = {"gsm8k-agents": questions, "trace": trace_file}.get(name)
    return make_workload(name, shape, MODULES, file, TOKENIZER)


@pytest.mark.parametrize("name", ["react", "reflexion", "unshared", "trace", "gsm8k-agents"])
def test_a_workload_follows_from_its_seed(name: str, questions: Path, trace_file: Path) -> None:
    first = _make(name, SHAPE, questions, trace_file)
    assert first == _make(name, SHAPE, questions, trace_file)
    other = _make(name, replace(SHAPE, seed=2), questions, trace_file)
    assert first.sessions != other.sessions
    # Another seed changes what is asked, not how much.
    if name != "gsm8k-agents":
        assert [s.longest_prompt() for s in first.sessions] == [s.longest_prompt() for s in other.sessions]
    warm_up = _make(name, replace(SHAPE, tags=("warm-up",)), questions, trace_file)
    assert first.sessions != warm_up.sessions


def test_react_grows_by_the_same_and_takes_turns() -> None:
    workload = make_workload("react", replace(SHAPE, output_tokens=(4,)), MODULES)
    for session in workload.sessions:
        assert [step.module for step in session.steps] == ["a", "b", "c", "a", "b", "c"]
        prompts = _prompts(session)
        assert [len(prompt) for prompt in prompts] == [50 + 11 * call for call in range(6)]
        assert all(after[: len(before)] == before for before, after in pairwise(prompts))
    starts = [session.steps[0].added for session in workload.sessions]
    assert len({start[:10] for start in starts}) == len(starts)


def test_output_lengths_are_taken_in_turn() -> None:
    workload = make_workload("react", SHAPE, MODULES)
    assert [step.output_tokens for step in workload.sessions[0].steps] == [3, 5, 3, 5, 3, 5]
    assert workload.output_tokens == 4 * 24
    assert workload.num_calls == 24


def test_roles_are_at_the_end_and_are_left_out_of_the_context() -> None:
    workload = make_workload("react", replace(SHAPE, role_tokens=9), MODULES)
    first, second, third, fourth = workload.sessions[0].steps[:4]
    assert first.role == fourth.role
    assert len({first.role, second.role, third.role}) == 3
    prompts = _prompts(workload.sessions[0])
    assert prompts[0][-9:] == first.role
    # 50 tokens of context are common, the role of the first call is not.
    assert prompts[1][:50] == prompts[0][:50]
    assert prompts[1][50:53] == (5, 5, 5)


def test_reflexion_has_long_answers_short_verdicts_and_reflections() -> None:
    workload = make_workload("reflexion", replace(SHAPE, output_tokens=(8,)), MODULES)
    steps = workload.sessions[0].steps
    assert [step.output_tokens for step in steps] == [16, 2, 8, 16, 2, 8]
    assert [len(step.added) for step in steps] == [50, 0, 0, 7, 0, 0]


def test_unshared_calls_have_no_common_token() -> None:
    workload = make_workload("unshared", SHAPE, MODULES)
    firsts = [session.steps[0].added[0] for session in workload.sessions]
    assert len(set(firsts)) == len(firsts) == 24
    assert {session.steps[0].module for session in workload.sessions} == set(MODULES)


def test_one_module_answers_every_call() -> None:
    workload = make_workload("react", SHAPE, ("only",))
    assert {step.module for session in workload.sessions for step in session.steps} == {"only"}


@pytest.mark.parametrize("window", [4096, 1000, 250])
def test_a_trace_keeps_its_prefixes_in_every_window(trace_file: Path, window: int) -> None:
    workload = make_workload("trace", replace(SHAPE, context_length=window), MODULES, trace_file)
    block = min(512, (window - 2) * 512 // 2040)
    prompts = [session.steps[0].added for session in workload.sessions]
    assert [len(prompt) for prompt in prompts] == [length * block // 512 for length in (1500, 2000, 600, 30)]
    assert _common(prompts[0], prompts[1]) == 2 * block
    assert _common(prompts[0], prompts[2]) == block
    assert _common(prompts[0], prompts[3]) == 0
    assert [session.arrival_s for session in workload.sessions] == [0.0, 0.5, 0.5, 3.0]
    assert [session.steps[0].module for session in workload.sessions] == ["a", "b", "c", "a"]
    assert workload.longest_prompt() <= window


def test_gsm8k_sessions_share_the_examples_and_ask_their_own_question(questions: Path) -> None:
    from tokenizers import Tokenizer

    workload = make_workload("gsm8k-agents", replace(SHAPE, start_tokens=120), MODULES, questions, TOKENIZER)
    starts = [session.steps[0].added for session in workload.sessions]
    shared = min(_common(starts[0], other) for other in starts[1:])
    assert 60 < shared < len(starts[0])
    text = Tokenizer.from_file(str(TOKENIZER)).decode(list(starts[0]))
    assert text.count("Answer: ####") >= 2
    assert text.rindex("Question: Omar has") > text.rindex("Answer: ####")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[]", "no line of a trace"),
        ('{"timestamp": 0, "input_length": 600, "output_length": 1, "hash_ids": [1]}', "1 hash_ids for 600 tokens"),
    ],
)
def test_a_wrong_trace_is_refused_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(line + "\n")
    with pytest.raises(BenchError, match=reason):
        make_workload("trace", SHAPE, MODULES, file)


def test_a_bad_line_of_a_trace_is_left_out_and_said(
    tmp_path: Path, trace_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = make_workload("trace", SHAPE, MODULES, trace_file)
    first, *others = trace_file.read_bytes().splitlines(keepends=True)
    (tmp_path / "spoiled.jsonl").write_bytes(b"".join([first, b"[]\n", b'{"timestamp": "caf\xe9"}\n', *others]))
    assert make_workload("trace", SHAPE, MODULES, tmp_path / "spoiled.jsonl") == whole
    assert "2 rows are left out (row 2: the line is not a JSON object" in caplog.text


def test_a_bad_question_is_left_out_and_said(tmp_path: Path, questions: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = questions.read_bytes().splitlines(keepends=True)
    spoiled = [b'{"question": 3, "answer": "x"}\n', *lines, b'{"question"']
    (tmp_path / "spoiled.jsonl").write_bytes(b"".join(spoiled))
    assert read_questions(tmp_path / "spoiled.jsonl") == read_questions(questions)
    assert "2 rows are left out (row 1: question is 3, not text; row" in caplog.text
    (tmp_path / "none.jsonl").write_text("{}")
    with pytest.raises(BenchError, match=r"is not a file of questions \(row 1: no 'question'\)"):
        read_questions(tmp_path / "none.jsonl")


def test_what_does_not_fit_the_window_is_refused() -> None:
    with pytest.raises(BenchError, match=r"longest call of react has 109 tokens .* context window 100"):
        make_workload("react", replace(SHAPE, context_length=100), MODULES)


@pytest.mark.parametrize(("name", "file"), [("trace", None), ("react", Path("x")), ("reactt", None)])
def test_wrong_workloads_are_refused(name: str, file: Path | None) -> None:
    with pytest.raises(BenchError, match=r"needs a file|takes no file|there is no workload 'reactt'"):
        make_workload(name, SHAPE, MODULES, file)
