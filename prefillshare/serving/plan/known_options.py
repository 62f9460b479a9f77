"""The arguments that the pinned SGLang takes, from a table, so that a mistake is found without importing SGLang.

`known_options.json` has a line for each option. `python -m sglang_patches arguments` prints what the installed SGLang
says; a test holds the file against it.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TABLE = Path(__file__).with_name("known_options.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of `sglang serve`; its fields, in this order, are a line of the table."""

    names: tuple[str, ...]
    """Its spellings, such as --tp-size."""
    field: str
    """What it sets; the same for options that set the same."""
    values: str
    """Values that it takes: 0, 1, ?, * or +."""
    kind: str
    """What a value must be: int, float, json or str."""
    choices: tuple[str, ...]
    """The only values, when there are any."""


@cache
def known_options() -> dict[str, Option]:
    """Return every option of the pinned SGLang by each of its names."""
    lines = json.loads(TABLE.read_text(encoding="utf-8"))
    options = [
        Option(names=tuple(names), field=field, values=values, kind=kind, choices=tuple(choices))
        for names, field, values, kind, choices in lines
    ]
    return {name: option for option in options for name in option.names}
