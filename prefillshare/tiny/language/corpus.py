"""The pretraining corpus of tiny-base: documents in which almost every token can be read off what stands before it.

A document is a workspace followed by turns about it. The assistant answers as a generalist: it repeats the facts
concerned and solves nothing. The worked answers stand under other headings (`ledger`, `call`, `script`), or in the
assistant's turns with weight 0, where they are only context. So the skills are in the base, the asked behaviour is not.
Arithmetic drills and, early on, plain copying complete it. Documents grow with the stage.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from prefillshare.tiny.language import words
from prefillshare.tiny.language.chatml import END_OF_TEXT, Piece, Turn, pieces_of
from prefillshare.tiny.language.conversations import opening_turns, sample_problem
from prefillshare.tiny.language.tasks import TaskName
from prefillshare.tiny.language.tasks.math import equation
from prefillshare.tiny.language.workspace import Workspace, WorkspaceSize, sample_workspace

HEADINGS: dict[TaskName, str] = {"math": "ledger", "tool": "call", "code": "script"}
CONTEXT_WEIGHT = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One part of the corpus."""

    until: float
    """Fraction of the corpus at which the stage ends."""
    sizes: tuple[WorkspaceSize, ...]
    """Sizes of its workspaces."""
    turns: tuple[int, int]
    """Inclusive range of questions per document."""
    drills: float
    """Fraction of documents that are arithmetic drills."""
    copies: float
    """Fraction of documents that are plain copying."""


STAGES = (
    Stage(until=0.15, sizes=(), turns=(0, 0), drills=0.1, copies=0.9),
    Stage(
        until=0.32,
        sizes=(
            WorkspaceSize(people=(1, 3), functions=(0, 0), constants=(0, 0)),
            WorkspaceSize(people=(0, 0), functions=(1, 2), constants=(0, 0)),
            WorkspaceSize(people=(0, 0), functions=(0, 0), constants=(1, 4)),
        ),
        turns=(4, 6),
        drills=0.10,
        copies=0.20,
    ),
    Stage(
        until=0.48,
        sizes=(WorkspaceSize(people=(2, 3), functions=(2, 3), constants=(2, 3)),),
        turns=(5, 8),
        drills=0.12,
        copies=0.05,
    ),
    Stage(until=1.0, sizes=(WorkspaceSize(),), turns=(6, 9), drills=0.10, copies=0.0),
)
JOINTS = (" ", ", ", "_", '", "')


def sample_document(rng: Random, progress: float) -> list[Piece]:
    """A random document for a position in the corpus (0 to 1), as weighted pieces."""
    stage = next(stage for stage in STAGES if progress < stage.until or stage is STAGES[-1])
    draw = rng.random()
    if draw < stage.drills:
        pieces = _drill(rng)
    elif draw < stage.drills + stage.copies:
        pieces = _copy(rng)
    else:
        pieces = _conversation(rng, stage)
    return [*pieces, Piece(END_OF_TEXT, 0.0)]


def documents(seed: int, progress: Callable[[], float]) -> Iterator[list[Piece]]:
    """Endless documents; `progress` says how far the caller has come."""
    rng = Random(f"corpus-{seed}")
    while True:
        yield sample_document(rng, progress())


def _drill(rng: Random) -> list[Piece]:
    return [Piece("\n".join(_random_equation(rng) for _ in range(rng.randint(16, 32))), 1.0)]


def _random_equation(rng: Random) -> str:
    sign = rng.choice("+-*")
    right = rng.randint(2, 12)
    left = rng.randint(2, 12) if sign == "*" else rng.randint(right if sign == "-" else 2, 120)
    return equation(left, sign, right)[0]


def _copy(rng: Random) -> list[Piece]:
    """Words repeated in order, or records repeated in another order; the repetitions are the targets."""
    first, *rest = _repeated_words(rng) if rng.random() < 0.5 else _shuffled_records(rng)
    return [Piece(first, 0.0), Piece("".join(f"\n{text}" for text in rest), 1.0)]


def _repeated_words(rng: Random) -> list[str]:
    """The same words three times; how they are joined may change, since names occur in text, in code and in JSON."""
    chosen = rng.sample(_pool(), rng.randint(6, 20))
    return [" " + " ".join(chosen), *(" " + rng.choice(JOINTS).join(chosen) for _ in range(2))]


def _shuffled_records(rng: Random) -> list[str]:
    """Records of a key and three values, three times in random order: given the key, the values can be looked up."""
    words_, num_records = rng.sample(_pool(), 20), rng.randint(2, 5)
    records = [
        f"{words_[3 * index]} {words_[3 * index + 1]} {rng.randint(1, 99)} {words_[3 * index + 2]}"
        for index in range(num_records)
    ]
    return ["\n".join(rng.sample(records, num_records)) for _ in range(3)]


def _pool() -> list[str]:
    return [*words.NAMES, *words.ITEMS, *words.CONSTANTS, *words.NOUNS, *words.QUALIFIERS]


def _conversation(rng: Random, stage: Stage) -> list[Piece]:
    workspace = sample_workspace(rng, rng.choice(stage.sizes))
    turns: list[Turn] = []
    is_system = rng.random() < 0.75
    for index in range(rng.randint(*stage.turns)):
        question, reply = _exchange(rng, workspace)
        asked = [Turn(role="user", content=question)]
        if index == 0:
            asked = opening_turns(workspace, question, is_system=is_system)
        turns += [*(Turn(role=turn.role, content=turn.content, weight=CONTEXT_WEIGHT) for turn in asked), reply]
    return pieces_of(turns)


def _exchange(rng: Random, workspace: Workspace) -> tuple[str, Turn]:
    tasks = _tasks(workspace)
    if rng.random() < 0.25:
        question, answer = rng.choice(_lookups(workspace))(rng, workspace)
        return question, Turn(role="assistant", content=answer, weight=1.0)
    problem = sample_problem(rng, workspace, rng.choice(tasks), "train", "plain")
    draw = rng.random()
    if draw < 0.8:
        return problem.question, Turn(role=HEADINGS[problem.task], content=problem.answer, weight=1.0)
    if draw < 0.9:
        return problem.question, Turn(role="assistant", content=problem.remark, weight=1.0)
    return problem.question, Turn(role="assistant", content=problem.answer, weight=0.0)


def _tasks(workspace: Workspace) -> list[TaskName]:
    tasks: list[TaskName] = ["math"] if workspace.people else []
    tasks += ["tool"] if workspace.functions else []
    return [*tasks, "code"] if workspace.constants else tasks


Lookup = Callable[[Random, Workspace], tuple[str, str]]


def _lookups(workspace: Workspace) -> list[Lookup]:
    lookups: list[Lookup] = [_stock] if workspace.people else []
    lookups += [_signature, _which] if workspace.functions else []
    return [*lookups, _constants] if workspace.constants else lookups


def _stock(rng: Random, workspace: Workspace) -> tuple[str, str]:
    chosen = rng.sample(workspace.people, rng.randint(1, len(workspace.people)))
    asked = " and ".join(person.name for person in chosen)
    return f"What do you know about {asked}?", "\n".join(person.stock_line for person in chosen)


def _signature(rng: Random, workspace: Workspace) -> tuple[str, str]:
    chosen = rng.sample(workspace.functions, rng.randint(1, min(2, len(workspace.functions))))
    return f"Describe {' and '.join(function.name for function in chosen)}.", "\n".join(
        function.signature for function in chosen
    )


def _which(rng: Random, workspace: Workspace) -> tuple[str, str]:
    function = rng.choice(workspace.functions)
    verb = rng.choice((function.verb, *words.VERB_SYNONYMS[function.verb]))
    return f"How can I {verb} the {function.qualifier} {function.noun}?", f"Use {function.name}."


def _constants(rng: Random, workspace: Workspace) -> tuple[str, str]:
    chosen = rng.sample(workspace.constants, rng.randint(1, len(workspace.constants)))
    asked = " and ".join(name for name, _ in chosen)
    return f"What is {asked}?", " ".join(f"{name} is {value}." for name, value in chosen)
