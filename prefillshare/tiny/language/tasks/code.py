"""Small Python functions: filter, map, reduce; some numbers are named in the question and defined in the workspace."""

from dataclasses import dataclass
from random import Random

from prefillshare.tiny.language import words
from prefillshare.tiny.language.tasks.base import Problem, Wording
from prefillshare.tiny.language.workspace import Workspace

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
OWN_WORDS = {
    "keeps the numbers greater than {}": "what exceeds {}",
    "keeps the numbers less than {}": "what stays under {}",
    "keeps the numbers divisible by {}": "the multiples of {}",
    "drops the numbers equal to {}": "all except {}",
    "keeps the even numbers": "whatever halves cleanly",
    "keeps the odd numbers": "whatever does not halve",
    "adds {} to each": "book {} on top",
    "subtracts {} from each": "trim {} off",
    "multiplies each by {}": "fold {} times",
    "squares each": "clone it",
    "negates each": "red for black",
    "returns the sum": "the blend",
    "returns the count": "the rate",
    "returns the list": "the scan",
    "returns the sorted list": "the chart",
    "returns the largest or 0": "the pick",
    "returns the smallest or 0": "the drop",
}
"""What users say for each plain clause: a jargon of known words."""
CASES: tuple[list[int], ...] = (
    [],
    [7],
    [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
    [12, 0, 5, 5, 3, 24, 9, 8],
    [-6, 14, -3, 2, 11, 4, 10, 40],
    [6, 6, 12, 18, 3, 60, 36, 7, 1, 30],
)
"""Inputs on which an answer is run; they tell all specifications apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """One part of a specification."""

    words: str
    """What the user says; `{}` stands for the operand."""
    python: str
    """The expression that is meant; `{}` stands for the operand."""
    operand: str = ""
    """A number, or the name of a constant of the workspace."""
    constant: tuple[str, int] | None = None
    """Name and value, when the operand is a constant."""

    @property
    def said(self) -> str:
        return self.words.format(self.operand)

    @property
    def meant(self) -> str:
        return self.python.format(self.operand)


def sample(rng: Random, workspace: Workspace, wording: Wording) -> Problem:
    """A random specification; constants named in the question become local names in the answer."""
    name = f"{rng.choice(words.CODE_VERBS)}_{rng.choice(words.CODE_NOUNS)}"
    clauses = [_clause(rng, table, workspace) for table in (FILTERS, MAPS)]
    returned = rng.choice(list(REDUCES))
    clauses.append(Clause(words=returned, python=REDUCES[returned]))
    wants, changes, returns = clauses
    known = dict(clause.constant for clause in clauses if clause.constant)
    answer = "\n    ".join(
        (
            f"def {name}(xs):",
            *(f"{constant} = {value}" for constant, value in known.items()),
            f"xs = [x for x in xs if {wants.meant}]",
            f"xs = [{changes.meant} for x in xs]",
            f"return {returns.meant}",
        )
    )
    facts = "".join(f" {constant} is {value}." for constant, value in known.items())
    return Problem(
        task="code",
        workspace=workspace,
        question=_plain(name, clauses) if wording == "plain" else _own(name, clauses),
        quote="\n".join(f"{constant} {value}" for constant, value in known.items()),
        answer=answer,
        remark=f"You want a function named {name}.{facts}",
        judge={"function": name, "reference": answer},
    )


def _clause(rng: Random, table: dict[str, str], workspace: Workspace) -> Clause:
    wording = rng.choice(list(table))
    if "{}" not in wording:
        return Clause(words=wording, python=table[wording])
    if workspace.constants and rng.random() < 0.6:
        constant = rng.choice(workspace.constants)
        return Clause(words=wording, python=table[wording], operand=constant[0], constant=constant)
    return Clause(words=wording, python=table[wording], operand=str(rng.randint(2, 12)))


def _plain(name: str, clauses: list[Clause]) -> str:
    wants, changes, returns = clauses
    return f"Write a function {name}(xs) that {wants.said}, then {changes.said}, and {returns.said}."


def _own(name: str, clauses: list[Clause]) -> str:
    wants, changes, returns = (OWN_WORDS[clause.words].format(clause.operand) for clause in clauses)
    return f"For {name}(xs) take {wants}, {changes}, hand back {returns}."
