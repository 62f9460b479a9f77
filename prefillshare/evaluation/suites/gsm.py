"""GSM8K and GSM+: word problems whose final number decides.

The number is the one after the last `####`, else the last one of the answer, as the field's harnesses take it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar

from prefillshare.datafiles import require_text
from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.suites.problem_file import FieldSuite, read_problems

INSTRUCTION = 'Solve the problem step by step. End with a line "#### " and the number.'
MAX_NEW_TOKENS = 512
_NUMBER = re.compile(r"-?\$?\d[\d,]*(?:\.\d+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class GsmQuestion:
    """One word problem."""

    asked: str
    """The problem."""
    reference: str
    """The worked answer."""
    final: Decimal
    """The number that decides."""
    tools: ClassVar[tuple[dict[str, Any], ...]] = ()

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [{"role": "user", "content": f"{self.asked}\n\n{INSTRUCTION}"}]

    def judge(self, answer: str) -> Verdict:
        """Compare the final numbers."""
        given = final_number(answer)
        if given is None:
            return Verdict(is_right=False, reason="has no number")
        is_right = given == self.final
        return Verdict(is_right=is_right, reason="" if is_right else f"{given} instead of {self.final}")


def final_number(answer: str) -> Decimal | None:
    """The number after the last `####`, else the last number; None when there is none."""
    _, mark, tail = answer.rpartition("####")
    found = _NUMBER.findall(tail) if mark else []
    if found:
        return _decimal(found[0])
    found = _NUMBER.findall(answer)
    return _decimal(found[-1]) if found else None


def load_gsm8k(directory: Path | None) -> FieldSuite:
    """The 1,319 test problems of GSM8K (gsm8k_test.jsonl)."""
    problems, left_out = read_problems("gsm8k_test.jsonl", directory, _gsm8k)
    return _suite("gsm8k", problems, left_out)


def load_gsm_plus(directory: Path | None) -> FieldSuite:
    """GSM+ (gsmplus_testmini.jsonl); problems that have no number as answer are left out and counted."""
    problems, left_out = read_problems("gsmplus_testmini.jsonl", directory, _gsm_plus)
    return _suite("gsm-plus", problems, left_out)


def _gsm8k(row: Mapping[str, Any]) -> GsmQuestion:
    answer = require_text(row, "answer")
    return _question(require_text(row, "question"), answer, answer.rpartition("####")[2])


def _gsm_plus(row: Mapping[str, Any]) -> GsmQuestion:
    return _question(require_text(row, "question"), require_text(row, "solution"), str(row["answer"]))


def _question(asked: str, reference: str, final: str) -> GsmQuestion:
    number = _decimal(final.strip()) if _NUMBER.fullmatch(final.strip()) else None
    if number is None:
        raise ValueError(f"its answer {final.strip()[:40]!r} is not a number")
    return GsmQuestion(asked=asked, reference=reference, final=number)


def _suite(name: str, questions: list[GsmQuestion], left_out: list[str]) -> FieldSuite:
    return FieldSuite(name=name, questions=questions, max_new_tokens=MAX_NEW_TOKENS, left_out=left_out)


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
