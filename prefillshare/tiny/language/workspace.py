"""A workspace: the shared context that several decode modules are asked about in turn.

It lists people with goods, functions that may be called, and named constants. `sample_workspace` makes one from a
random generator alone, so that equal seeds give equal workspaces.
"""

import json
from dataclasses import dataclass
from random import Random
from typing import Literal

from prefillshare.tiny.language import words

ParameterType = Literal["string", "integer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Somebody who owns boxes of one kind of goods."""

    name: str
    """First name; unique in a workspace."""
    item: str
    """Plural of the goods; unique in a workspace."""
    num_boxes: int
    """How many boxes the person has."""
    num_per_box: int
    """How many goods are in each box."""

    @property
    def stock_line(self) -> str:
        """Each number stands right behind the word by which it is looked up; a small model needs that."""
        return f"{self.name} {self.num_boxes} boxes, {self.item} {self.num_per_box} per box"


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function that a user may ask to call."""

    verb: str
    """First part of its name."""
    qualifier: str
    """Middle part of its name."""
    noun: str
    """Last part of its name."""
    parameters: tuple[tuple[str, ParameterType], ...]
    """Names and types, in the order in which a call lists them."""

    @property
    def name(self) -> str:
        return f"{self.verb}_{self.qualifier}_{self.noun}"

    @property
    def signature(self) -> str:
        return json.dumps({"name": self.name, "parameters": dict(self.parameters)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """The facts of one shared context."""

    place: str
    """What the workspace is called."""
    people: tuple[Person, ...] = ()
    """Owners of goods."""
    functions: tuple[Function, ...] = ()
    """Functions that may be called."""
    constants: tuple[tuple[str, int], ...] = ()
    """Named numbers."""

    def render(self) -> str:
        """The text that stands in the prompt."""
        return "\n".join([f"Workspace {self.place}", *_people(self), *_functions(self), *_constants(self)])


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkspaceSize:
    """Inclusive ranges of how much a workspace holds."""

    people: tuple[int, int] = (3, 4)
    """Number of people."""
    functions: tuple[int, int] = (4, 5)
    """Number of functions."""
    constants: tuple[int, int] = (3, 4)
    """Number of constants."""


def sample_workspace(rng: Random, size: WorkspaceSize) -> Workspace:
    """A random workspace of the given size."""
    return Workspace(
        place=rng.choice(words.PLACES),
        people=_sample_people(rng, rng.randint(*size.people)),
        functions=_sample_functions(rng, rng.randint(*size.functions)),
        constants=tuple(
            (name, rng.randint(2, 12)) for name in rng.sample(words.CONSTANTS, rng.randint(*size.constants))
        ),
    )


def _sample_people(rng: Random, num_people: int) -> tuple[Person, ...]:
    names, items = rng.sample(words.NAMES, num_people), rng.sample(words.ITEMS, num_people)
    return tuple(
        Person(
            name=name,
            item=item,
            num_boxes=rng.randint(3, 9),
            num_per_box=rng.randint(2, 12),
        )
        for name, item in zip(names, items, strict=True)
    )


def _sample_functions(rng: Random, num_functions: int) -> tuple[Function, ...]:
    """Functions with near misses: some share the verb or the noun of the one before."""
    functions: list[Function] = []
    while len(functions) < num_functions:
        verb, noun = rng.choice(list(words.VERB_SYNONYMS)), rng.choice(words.NOUNS)
        if functions and rng.random() < 0.5:
            verb, noun = rng.choice(((functions[-1].verb, noun), (verb, functions[-1].noun)))
        function = Function(
            verb=verb, qualifier=rng.choice(words.QUALIFIERS), noun=noun, parameters=_sample_parameters(rng)
        )
        if function.name not in {other.name for other in functions}:
            functions.append(function)
    return tuple(functions)


def _sample_parameters(rng: Random) -> tuple[tuple[str, ParameterType], ...]:
    pool: list[tuple[str, ParameterType]] = [(name, "string") for name in words.STRING_PARAMETERS]
    pool += [(name, "integer") for name in words.INTEGER_PARAMETERS]
    return tuple(rng.sample(pool, rng.randint(1, 3)))


def _people(workspace: Workspace) -> list[str]:
    lines = [f"- {person.stock_line}" for person in workspace.people]
    return ["People:", *lines] if lines else []


def _functions(workspace: Workspace) -> list[str]:
    lines = [f"- {function.signature}" for function in workspace.functions]
    return ["Functions:", *lines] if lines else []


def _constants(workspace: Workspace) -> list[str]:
    lines = [f"- {name} {value}" for name, value in workspace.constants]
    return ["Constants:", *lines] if lines else []
