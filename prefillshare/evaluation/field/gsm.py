"""GSM8K and GSM+: word problems whose final number decides.

The number is the one after the last `####`, else the last one of the answer, as the field's harnesses take it.
"""

import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, ClassVar

from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.field.base import FieldSuite, read_rows

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
    rows = read_rows("gsm8k_test.jsonl", directory)
    return _suite("gsm8k", [(row["question"], row["answer"], row["answer"].rpartition("####")[2]) for row in rows])


def load_gsm_plus(directory: Path | None) -> FieldSuite:
    """GSM+ (gsmplus_testmini.jsonl); problems that have no number as answer are left out and counted."""
    rows = read_rows("gsmplus_testmini.jsonl", directory)
    return _suite("gsm-plus", [(row["question"], row["solution"], str(row["answer"])) for row in rows])


def _suite(name: str, rows: list[tuple[str, str, str]]) -> FieldSuite:
    questions = []
    for asked, reference, final in rows:
        number = _decimal(final.strip()) if _NUMBER.fullmatch(final.strip()) else None
        if number is not None:
            questions.append(GsmQuestion(asked=asked, reference=reference, final=number))
    return FieldSuite(
        name=name,
        questions=tuple(questions),
        max_new_tokens=MAX_NEW_TOKENS,
        num_left_out=len(rows) - len(questions),
    )


def _decimal(text: str) -> Decimal | None:
    try:
        return Decimal(text.replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None
