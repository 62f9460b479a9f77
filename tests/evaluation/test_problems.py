"""A row of a suite's file that cannot be asked is left out with its number, and the others are asked."""

import gzip
import json
from pathlib import Path

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.harness import _copy_usable
from prefillshare.evaluation.suites.gsm import load_gsm8k, load_gsm_plus
from prefillshare.evaluation.suites.humaneval import load_humaneval

GOOD = {"question": "1 + 2?", "answer": "1 + 2 = 3\n#### 3"}


def test_bad_rows_of_word_problems_are_left_out_with_their_reasons(tmp_path: Path) -> None:
    lines = [
        json.dumps(GOOD),
        "{cut",
        json.dumps({"question": "?"}),
        json.dumps({**GOOD, "answer": 3}),
        json.dumps(GOOD),
    ]
    (tmp_path / "gsm8k_test.jsonl").write_bytes("\n".join(lines).encode() + b'\n{"question": "caf\xe9"}\n')
    suite = load_gsm8k(tmp_path)
    assert [question.asked for question in suite.questions] == ["1 + 2?"] * 2
    assert len(suite.left_out) == 4
    assert [reason.partition(":")[0] for reason in suite.left_out] == ["row 2", "row 3", "row 4", "row 6"]
    assert "no 'answer'" in suite.left_out[1]
    assert "answer is 3, not text" in suite.left_out[2]


def test_a_problem_without_a_number_says_so(tmp_path: Path) -> None:
    rows = [{"question": "?", "solution": "x", "answer": answer} for answer in ("12", "none", 7)]
    (tmp_path / "gsmplus_testmini.jsonl").write_text("\n".join(map(json.dumps, rows)))
    suite = load_gsm_plus(tmp_path)
    assert [str(question.final) for question in suite.questions] == ["12", "7"]
    assert list(suite.left_out) == ["row 2: its answer 'none' is not a number"]


def test_problems_before_a_cut_are_asked(tmp_path: Path) -> None:
    row = {"canonical_solution": "    return 1\n", "entry_point": "f", "test": "def check(f): pass"}
    text = "\n".join(json.dumps({**row, "prompt": f"def f(): # {number**9}\n"}) for number in range(500))
    packed = gzip.compress(text.encode())
    (tmp_path / "HumanEval.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    suite = load_humaneval(tmp_path)
    assert 0 < len(suite.questions) < 500
    assert "the file is cut or damaged from here on" in suite.left_out[-1]


def test_a_file_without_a_problem_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="does not exist"):
        load_gsm8k(tmp_path)
    (tmp_path / "gsm8k_test.jsonl").write_text("[1]\n")
    with pytest.raises(EvaluationError, match=r"no problem that can be read \(row 1: the line is not a JSON object"):
        load_gsm8k(tmp_path)


def test_lm_eval_gets_the_rows_that_can_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, spoiled = tmp_path / "whole.jsonl", tmp_path / "spoiled.jsonl"
    whole.write_text(json.dumps(GOOD))
    spoiled.write_text(f"{json.dumps({**GOOD, 'more': 1})}\n{{cut\n{json.dumps({**GOOD, 'more': 'one'})}")
    (tmp_path / "copies").mkdir()
    assert _copy_usable(whole, tmp_path / "copies") == str(whole)
    copy = Path(_copy_usable(spoiled, tmp_path / "copies"))
    assert [json.loads(line) for line in copy.read_text().splitlines()] == [GOOD, GOOD]
    assert "1 row is left out (row 2: the line is not JSON: {cut)" in caplog.text
