"""Two stored results side by side, question by question: McNemar's exact test."""

import json
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

from prefillshare.errors import EvaluationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two models on the same questions of one suite."""

    suite: str
    """Name of the suite."""
    num_questions: int
    """Questions that both were asked."""
    num_right: tuple[int, int]
    """Right answers of each."""
    only_first: int
    """Questions that only the first one answered rightly."""
    only_second: int
    """Questions that only the second one answered rightly."""

    @property
    def p_value(self) -> float:
        """Two-sided exact probability of a split at least as uneven, were both equally good."""
        return mcnemar(self.only_first, self.only_second)

    def as_dict(self) -> dict[str, Any]:
        return {
            "suite": self.suite,
            "num_questions": self.num_questions,
            "num_right": list(self.num_right),
            "only_first": self.only_first,
            "only_second": self.only_second,
            "p_value": self.p_value,
        }


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's exact test on the questions where two models differ."""
    num = only_first + only_second
    tail = sum(comb(num, k) for k in range(min(only_first, only_second) + 1)) / 2**num
    return min(1.0, 2 * tail)


def compare_files(first: Path, second: Path) -> list[Comparison]:
    """Compare the suites that two files of `prefillshare eval --json` share.

    Raises: EvaluationError when they share none, or their questions differ.
    """
    scores, other = _scores(first), _scores(second)
    shared = [name for name in scores if name in other]
    if not shared:
        raise EvaluationError(
            f"{first} has {', '.join(scores)} and {second} has {', '.join(other)}: ask both the same suite"
        )
    return [_compare(name, scores[name], other[name]) for name in shared]


def _compare(name: str, scores: list[dict[str, Any]], other: list[dict[str, Any]]) -> Comparison:
    if [sample["question"] for sample in scores] != [sample["question"] for sample in other]:
        raise EvaluationError(f"the two files do not have the same questions of {name}: ask both with the same --limit")
    pairs = [(bool(a["is_right"]), bool(b["is_right"])) for a, b in zip(scores, other, strict=True)]
    return Comparison(
        suite=name,
        num_questions=len(pairs),
        num_right=(sum(a for a, _ in pairs), sum(b for _, b in pairs)),
        only_first=sum(a and not b for a, b in pairs),
        only_second=sum(b and not a for a, b in pairs),
    )


def _scores(file: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {score["suite"]: score["samples"] for score in content["scores"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvaluationError(
            f"{file} is not a result of `prefillshare eval --out FILE` ({type(error).__name__}): "
            "give two files that --out wrote"
        ) from None
