"""HumanEval+: HumanEval's functions on EvalPlus's many more inputs, judged against the canonical solution's results.

The file is EvalPlus's own release. Its program is not used: it runs answers without limits on network and files. The
rules of comparison are the same (evalplus 0.3.1, `eval/__init__.py:unsafe_execute`): equal, or within `atol`, which is
1e-6 for results of floats; `find_zero` must give a zero.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.sandbox import Limits, run_function
from prefillshare.evaluation.suites.humaneval import CompletionQuestion, completion_fields, load_completions
from prefillshare.evaluation.suites.problem_file import FieldSuite

FILE = "HumanEvalPlus.jsonl.gz"
LIMITS = Limits(cpu_s=30, wall_s=360.0, memory_bytes=1024 * 2**20)
_JUDGE = "agrees"
_RULES = """
import copy as _copy, math as _math

def _close(out, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        return len(out) == len(wanted) and all(_close(a, b, atol) for a, b in zip(out, wanted))
    return out == wanted or abs(out - wanted) <= atol + 1e-07 * abs(wanted)

def _is_floats(value):
    if isinstance(value, (list, tuple)) and value:
        return all(isinstance(item, float) for item in value)
    return isinstance(value, float)

def _same(out, wanted, atol):
    if out == wanted:
        return True
    atol = 1e-6 if atol == 0 and _is_floats(wanted) else atol
    return bool(atol) and type(out) is type(wanted) and _close(out, wanted, atol)

def _is_zero(coefficients, x, atol):
    return abs(sum(factor * _math.pow(x, i) for i, factor in enumerate(coefficients))) <= atol

def _defined(source, name):
    names = {"__name__": "answer"}
    exec(compile(source, "answer", "exec"), names)
    return names[name]
"""
_AGREES = """
def agrees(given):
    out = _candidate(*_copy.deepcopy(given))
    if _NAME == "find_zero":
        good = _is_zero(*given, out, _ATOL)
    else:
        good = _same(out, _reference(*_copy.deepcopy(given)), _ATOL)
    if not good:
        raise AssertionError(f"wrong for {given!r:.100}")
    return True
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanEvalPlusQuestion(CompletionQuestion):
    """One with what it is called with."""

    inputs: Sequence[Sequence[Any]]
    """Arguments of each call, HumanEval's own ones first."""
    atol: float
    """How far a number may be off; 0: not at all."""

    def judge(self, answer: str) -> Verdict:
        """Call the answer and the canonical solution with every input.

        Effects: starts a sandbox process.
        """
        candidate = self.program(answer)
        source = "\n".join(
            (
                _RULES,
                f"_NAME, _ATOL = {self.entry_point!r}, {self.atol!r}",
                f"_reference = _defined({self.asked + self.reference!r}, _NAME)",
                f"_candidate = _defined({candidate!r}, _NAME)",
                _AGREES,
            )
        )
        outcome = run_function(source, _JUDGE, list(self.inputs), LIMITS)
        is_right = outcome.error is None and outcome.values == (True,) * len(self.inputs)
        return Verdict(is_right=is_right, reason="" if is_right else outcome.error or "returned something else")


def load_humaneval_plus(directory: Path | None) -> FieldSuite:
    """The 164 problems (HumanEvalPlus.jsonl.gz of EvalPlus's release v0.1.10)."""
    return load_completions("humaneval+", FILE, directory, _question)


def _question(row: Mapping[str, Any]) -> HumanEvalPlusQuestion:
    return HumanEvalPlusQuestion(
        **completion_fields(row),
        inputs=[*row["base_input"], *row["plus_input"]],
        atol=float(row["atol"]),
    )
