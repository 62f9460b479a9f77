"""The suites that `prefillshare eval` knows by name."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from prefillshare.config.tables import suggest_nearest
from prefillshare.errors import EvaluationError
from prefillshare.evaluation.base import Suite
from prefillshare.evaluation.suites.bfcl import CATEGORIES, load_bfcl
from prefillshare.evaluation.suites.gsm import load_gsm8k, load_gsm_plus
from prefillshare.evaluation.suites.humaneval import load_humaneval
from prefillshare.evaluation.suites.humaneval_plus import load_humaneval_plus
from prefillshare.evaluation.suites.problem_file import FieldSuite
from prefillshare.evaluation.suites.tiny import load_suite as load_tiny_suite
from prefillshare.evaluation.suites.tiny import suite_names as tiny_names

FIELD: dict[str, Callable[[Path | None], FieldSuite]] = {
    "gsm8k": load_gsm8k,
    "gsm-plus": load_gsm_plus,
    "humaneval": load_humaneval,
    "humaneval+": load_humaneval_plus,
}
RUNS_CODE = frozenset({"humaneval", "humaneval+", "tiny-code"})
TINY_PROBLEMS = 500


def names() -> list[str]:
    """Names of all suites."""
    return [*FIELD, *CATEGORIES, *tiny_names()]


def load(
    name: str, *, directory: Path | None, limit: int | None, may_run_code: bool, offers_tools: bool = False
) -> Suite:
    """A suite by name, its first `limit` problems; `offers_tools` for those about function calls.

    Raises: EvaluationError for an unknown name, a missing file, or a suite that runs code without permission.
    """
    if name not in names():
        raise EvaluationError(f"there is no suite {name!r}: {suggest_nearest(name, names())}")
    if name in RUNS_CODE and not may_run_code:
        raise EvaluationError(
            f"suite {name} runs code that the model wrote: allow it with --allow-code-execution, best in a container"
        )
    if offers_tools and name not in CATEGORIES:
        raise EvaluationError(f"suite {name} has no functions to offer: leave --tools out")
    if name in tiny_names():
        return load_tiny_suite(name, limit or TINY_PROBLEMS)
    suite = load_bfcl(name, directory, is_offered=offers_tools) if name in CATEGORIES else FIELD[name](directory)
    return suite if limit is None else replace(suite, questions=tuple(suite.questions[:limit]))
