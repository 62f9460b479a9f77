"""Small Python functions: filter, map, reduce; some numbers are named in the question and defined in the workspace."""

from random import Random

from prefillshare.modules.tiny import words
from prefillshare.modules.tiny.tasks.base import Problem
from prefillshare.modules.tiny.workspace import Workspace

FILTERS = {
    "keeps the numbers greater than {}": "x > {}",
    "keeps the numbers less than {}": "x < {}",
    "keeps the numbers divisible by {}": "x % {} == 0",
    "drops the numbers equal to {}": "x != {}",
    "keeps the even numbers": "x % 2 == 0",
    "keeps the odd numbers": "x % 2 == 1",
}
MAPS = {
    "adds {} to each": "x + {}",
    "subtracts {} from each": "x - {}",
    "multiplies each by {}": "x * {}",
    "squares each": "x * x",
    "negates each": "-x",
}
REDUCES = {
    "returns the sum": "sum(xs)",
    "returns the count": "len(xs)",
    "returns the list": "xs",
    "returns the sorted list": "sorted(xs)",
    "returns the largest or 0": "max(xs, default=0)",
    "returns the smallest or 0": "min(xs, default=0)",
}
CASES: tuple[list[int], ...] = (
    [],
    [7],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    [12, 0, 5, 5, 3, 24, 9, 8],
    [-6, 14, -3, 2, 11, 4, 10, 40],
    [6, 6, 12, 18, 3, 60, 36, 7, 1, 30],
)
"""Inputs on which an answer is run; they tell all specifications apart."""


def sample(rng: Random, workspace: Workspace) -> Problem:
    """A random specification; numbers named in the question become local names in the answer."""
    name = f"{rng.choice(words.CODE_VERBS)}_{rng.choice(words.CODE_NOUNS)}"
    wants, kept, used = _clause(rng, FILTERS, workspace)
    changes, mapped, used_too = _clause(rng, MAPS, workspace)
    returns = rng.choice(list(REDUCES))
    known = dict(used + used_too)
    answer = "\n    ".join(
        (
            f"def {name}(xs):",
            *(f"{constant} = {value}" for constant, value in known.items()),
            f"xs = [x for x in xs if {kept}]",
            f"xs = [{mapped} for x in xs]",
            f"return {REDUCES[returns]}",
        )
    )
    facts = "".join(f" {constant} is {value}." for constant, value in known.items())
    return Problem(
        task="code",
        workspace=workspace,
        question=f"Write a function {name}(xs) that {wants}, then {changes}, and {returns}.",
        quote="\n".join(f"{constant} {value}" for constant, value in known.items()),
        answer=answer,
        remark=f"You want a function named {name}.{facts}",
        judge={"function": name, "reference": answer},
    )


def _clause(rng: Random, table: dict[str, str], workspace: Workspace) -> tuple[str, str, list[tuple[str, int]]]:
    """The wording, its Python, and the constants of the workspace that it names."""
    wording = rng.choice(list(table))
    if "{}" not in wording:
        return wording, table[wording], []
    if workspace.constants and rng.random() < 0.6:
        constant = rng.choice(workspace.constants)
        return wording.format(constant[0]), table[wording].format(constant[0]), [constant]
    number = rng.randint(2, 12)
    return wording.format(number), table[wording].format(number), []
