"""The members of a call's body that name modules, with the module in the place of each alias.

The answer then tells who gave it, whichever interface makes it, and whoever may ask some modules only is judged by the
module that is meant.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from prefillshare.naming.asked import Asked
from prefillshare.naming.names import Names

NAMING_MEMBERS = ("model", "lora_path")
"""Members that name a module, or a list of them."""


def replace_aliases(body: dict[str, Any], names: Names, asked: Asked) -> dict[str, Any]:
    """Return `body` with modules for aliases; itself where it names none. Of `asked` all but the name is used."""
    if not names.aliases:
        return body
    meant = {member: _mean(body[member], names, asked) for member in NAMING_MEMBERS if member in body}
    return body if all(body[member] == value for member, value in meant.items()) else {**body, **meant}


def find_undecided(body: Mapping[str, Any], names: Names, asked: Asked) -> str | None:
    """Return an alias in `body` whose classifier has still to see the prompt; None where every name is clear."""
    given = [body[member] for member in NAMING_MEMBERS if member in body]
    named = [each for value in given for each in (value if isinstance(value, list) else [value])]
    found = (names.find_undecided(replace(asked, name=name)) for name in named if isinstance(name, str))
    return next((alias for alias in found if alias is not None), None)


def mean_alias(name: str, names: Names, asked: Asked) -> str:
    """Return the module that is meant by an alias; any other name as it is."""
    is_alias = name.rpartition(":")[2].strip() in names.aliases
    return (names.find(replace(asked, name=name)) or name) if is_alias else name


def _mean(named: Any, names: Names, asked: Asked) -> Any:
    if isinstance(named, list):
        # A name for each prompt of a batch: each is judged by its own.
        return [_mean(each, names, _of_prompt(asked, place, len(named))) for place, each in enumerate(named)]
    return mean_alias(named, names, asked) if isinstance(named, str) else named


def _of_prompt(asked: Asked, place: int, num_prompts: int) -> Asked:
    return replace(asked, states=asked.states[place : place + 1]) if len(asked.states) == num_prompts else asked
