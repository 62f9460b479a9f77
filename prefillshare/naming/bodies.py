"""The members of a call's body that name modules, with the module in the place of each alias.

The answer then tells who gave it, whichever interface makes it, and whoever may ask some modules only is judged by the
module that is meant.
"""

from dataclasses import replace
from typing import Any

from prefillshare.naming.asked import Asked
from prefillshare.naming.names import Names

_MEMBERS = ("model", "lora_path")


def replace_aliases(body: dict[str, Any], names: Names, asked: Asked) -> dict[str, Any]:
    """Return `body` with modules for aliases; itself where it names none. Of `asked` all but the name is used."""
    if not names.aliases:
        return body
    meant = {member: _mean(body[member], names, asked) for member in _MEMBERS if member in body}
    return body if all(body[member] == value for member, value in meant.items()) else {**body, **meant}


def mean_alias(name: str, names: Names, asked: Asked) -> str:
    """Return the module that is meant by an alias; any other name as it is."""
    is_alias = name.rpartition(":")[2].strip() in names.aliases
    return (names.find(replace(asked, name=name)) or name) if is_alias else name


def _mean(named: Any, names: Names, asked: Asked) -> Any:
    if isinstance(named, list):
        return [_mean(each, names, asked) for each in named]
    return mean_alias(named, names, asked) if isinstance(named, str) else named
