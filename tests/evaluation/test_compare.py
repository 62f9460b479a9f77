"""Two results are compared question by question."""

import json
from pathlib import Path

import pytest

from prefillshare.errors import EvaluationError
from prefillshare.evaluation.compare import compare_files, mcnemar


def write(file: Path, verdicts: list[bool], suite: str = "gsm8k") -> Path:
    samples = [{"question": f"number {n}", "is_right": is_right} for n, is_right in enumerate(verdicts)]
    file.write_text(json.dumps({"scores": [{"suite": suite, "samples": samples}]}))
    return file


@pytest.mark.parametrize(
    ("only_first", "only_second", "wanted"), [(0, 0, 1.0), (5, 5, 1.0), (0, 5, 0.0625), (5, 0, 0.0625), (1, 9, 0.0215)]
)
def test_mcnemar_is_the_exact_binomial_test(only_first: int, only_second: int, wanted: float) -> None:
    assert mcnemar(only_first, only_second) == pytest.approx(wanted, abs=1e-4)


def test_only_questions_on_which_they_differ_count(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", [True] * 6 + [False] * 4)
    second = write(tmp_path / "b.json", [True] * 4 + [False] * 2 + [True] + [False] * 3)
    (found,) = compare_files(first, second)
    assert (found.num_right, found.only_first, found.only_second) == ((6, 5), 2, 1)
    assert found.p_value == 1.0


def test_results_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.json", [True, False])
    with pytest.raises(EvaluationError, match="same --limit"):
        compare_files(first, write(tmp_path / "b.json", [True]))
    with pytest.raises(EvaluationError, match="ask both the same suite"):
        compare_files(first, write(tmp_path / "c.json", [True], suite="gsm-plus"))
    (tmp_path / "d.json").write_text("[]")
    with pytest.raises(EvaluationError, match=r"is not a result of `prefillshare eval --out FILE`"):
        compare_files(first, tmp_path / "d.json")
