"""Berkeley Function Calling Leaderboard: Simple Python and Multiple; questions and AST checker are bfcl-eval's.

The functions stand in the prompt, or are offered through the chat API's `tools`; a call that the server's tool parser
took out of the answer is put back as JSON, so both are judged alike.
"""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from prefillshare.datafiles import require_text
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Verdict
from prefillshare.evaluation.suites.answered_calls import parse_calls
from prefillshare.evaluation.suites.problem_file import FieldSuite, Made, problems_of

PACKAGE = "bfcl-eval==2026.3.23"
CATEGORIES = {"bfcl-simple": "simple_python", "bfcl-multiple": "multiple"}
MAX_NEW_TOKENS = 256
INSTRUCTION = (
    "These functions can be called:\n{functions}\n\nAnswer the request with the one call that fits, and nothing else, "
    "in the form [name(argument=value, other=value)]."
)
_MODEL = "prefillshare"
_SCHEMA_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": "string"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BfclQuestion:
    """One request and the functions at hand."""

    category: str
    """The leaderboard's name of its kind."""
    asked: str
    """The request."""
    turns: Sequence[Mapping[str, Any]]
    """The request as chat turns."""
    functions: Sequence[Mapping[str, Any]]
    """Their signatures, in the leaderboard's form."""
    wanted: Sequence[Mapping[str, Any]]
    """Per call: the function's name and what each argument may be."""
    is_offered: bool
    """Whether the functions go through `tools` and not into the prompt."""

    @property
    def reference(self) -> str:
        return json.dumps(self.wanted, ensure_ascii=False)

    @property
    def messages(self) -> list[dict[str, Any]]:
        turns = [dict(turn) for turn in self.turns]
        if self.is_offered:
            return turns
        text = INSTRUCTION.format(functions=json.dumps(self.functions, ensure_ascii=False, indent=1))
        return [{"role": "system", "content": text}, *turns]

    @property
    def tools(self) -> list[dict[str, Any]]:
        return (
            [{"type": "function", "function": _tool(function)} for function in self.functions]
            if self.is_offered
            else []
        )

    def judge(self, answer: str) -> Verdict:
        """Compare the call, as the leaderboard's checker does."""
        try:
            calls = parse_calls(answer)
        except ValueError as error:
            return Verdict(is_right=False, reason=str(error))
        names = {api_name(function["name"]): function["name"] for function in self.functions} if self.is_offered else {}
        given = [{names.get(name, name): arguments} for name, arguments in calls]
        check, language = _checker()
        found = check(list(self.functions), given, list(self.wanted), language, self.category, _MODEL)
        return Verdict(is_right=bool(found["valid"]), reason="" if found["valid"] else _reason(found["error"]))


def load_bfcl(name: str, directory: Path | None, *, is_offered: bool = False) -> FieldSuite:
    """The questions of a category, from the package, or of the same files in `directory` if they are there.

    Raises: EvaluationError when the package is missing.
    """
    category = CATEGORIES[name]
    answers, no_answers = _problems(f"possible_answer/BFCL_v4_{category}.json", directory, _answer)
    wanted = dict(answers)

    def question(row: Mapping[str, Any]) -> BfclQuestion:
        return BfclQuestion(
            category=category,
            asked=row["question"][0][-1]["content"],
            turns=tuple(row["question"][0]),
            functions=tuple(row["function"]),
            wanted=tuple(wanted[row["id"]]),
            is_offered=is_offered,
        )

    questions, no_questions = _problems(f"BFCL_v4_{category}.json", directory, question)
    left_out = [*(f"answers, {reason}" for reason in no_answers), *no_questions]
    return FieldSuite(name=name, questions=questions, max_new_tokens=MAX_NEW_TOKENS, left_out=left_out)


def _answer(row: Mapping[str, Any]) -> tuple[str, Sequence[Mapping[str, Any]]]:
    return require_text(row, "id"), row["ground_truth"]


def api_name(name: str) -> str:
    """A function's name as the chat API allows it."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64]


def _problems(
    file: str, directory: Path | None, make: Callable[[Mapping[str, Any]], Made]
) -> tuple[list[Made], list[str]]:
    own = directory / file if directory else None
    try:
        return problems_of(own if own and own.exists() else Path(str(files("bfcl_eval") / "data" / file)), make)
    except ModuleNotFoundError:
        raise EvaluationError(f"{file} is not installed: pip install --no-deps {PACKAGE}") from None


@cache
def _checker() -> tuple[Callable[..., Mapping[str, Any]], Any]:
    """The leaderboard's AST checker, and its word for Python.

    Effects: imports it with a model list of one entry. Its own names every model of the leaderboard, and imports the
    clients of all their providers.
    """
    name = "bfcl_eval.constants.model_config"
    listed = ModuleType(name)
    listed.MODEL_CONFIG_MAPPING = {_MODEL: SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
    sys.modules[name] = listed
    from bfcl_eval.constants.enums import Language
    from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker

    return ast_checker, Language.PYTHON


def _reason(error: Any) -> str:
    """The checker's message: text, or a list that may hold what it found per candidate."""
    first = error[0] if isinstance(error, list) and error else error
    return str(first)[:200]


def _tool(function: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": api_name(function["name"]),
        "description": function.get("description", ""),
        "parameters": _schema(function["parameters"]),
    }


def _schema(node: Any) -> Any:
    """A parameter description with JSON Schema's names of types."""
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    named = {key: _schema(value) for key, value in node.items()}
    if isinstance(node.get("type"), str):
        named["type"] = _SCHEMA_TYPES.get(node["type"], node["type"])
    return named
