"""Function calls: the right one among those listed, with typed arguments, as one line of JSON."""

import json
from random import Random

from prefillshare.tiny.language import words
from prefillshare.tiny.language.tasks.base import Problem, Wording
from prefillshare.tiny.language.workspace import Function, Workspace

Value = str | int


def sample(rng: Random, workspace: Workspace, wording: Wording) -> Problem:
    """A random request that exactly one function of the workspace fulfils."""
    function = rng.choice(workspace.functions)
    parameters = rng.sample(function.parameters, len(function.parameters))
    arguments = {name: _sample_value(rng, name) for name, _ in parameters}
    call = {"name": function.name, "arguments": arguments}
    wish = _wish(rng, function)
    asked = wish if wording == "plain" else wish.replace(function.qualifier, words.LABELS[function.qualifier])
    return Problem(
        task="tool",
        workspace=workspace,
        question=_question(rng, asked, arguments),
        answer=json.dumps(call),
        remark=f"You want to {wish}. The workspace lists {function.name}.",
        judge={"call": call},
    )


def _sample_value(rng: Random, name: str) -> Value:
    values = words.STRING_PARAMETERS.get(name)
    return rng.choice(values) if values else rng.randint(1, 99)


def _wish(rng: Random, function: Function) -> str:
    verb = rng.choice((function.verb, *words.VERB_SYNONYMS[function.verb]))
    return f"{verb} the {function.qualifier} {function.noun}"


def _question(rng: Random, wish: str, arguments: dict[str, Value]) -> str:
    details = ", ".join(f"{name} {value}" for name, value in arguments.items())
    return rng.choice((f"Please {wish} with {details}.", f"I need you to {wish}: {details}."))
