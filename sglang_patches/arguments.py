"""The arguments that the pinned SGLang takes, from a table, so that a mistake is found without importing SGLang.

`arguments.json` has a line for each option. `python -m sglang_patches arguments` prints what the installed SGLang says;
a test holds the file against it.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("arguments.json")
_KINDS = {"int": "int", "float": "float", "loads": "json"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of `sglang serve`."""

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
    lines = json.loads(_FILE.read_text(encoding="utf-8"))
    options = [
        Option(names=tuple(names), field=field, values=values, kind=kind, choices=tuple(choices))
        for names, field, values, kind, choices in lines
    ]
    return {name: option for option in options for name in option.names}


def installed_options() -> list[Option]:
    """Return the options of the installed SGLang's own parser.

    Effects: imports SGLang.
    """
    import argparse

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return [_option(action) for action in parser._actions]


def as_text(options: list[Option]) -> str:
    """Return the text of `arguments.json`."""
    return "[\n" + ",\n".join(json.dumps(astuple(option)) for option in options) + "\n]\n"


def _option(action: Any) -> Option:
    return Option(
        names=tuple(action.option_strings),
        field=action.dest,
        values=str(action.nargs if action.nargs is not None else 1),
        kind=_KINDS.get(getattr(action.type, "__name__", "str"), "str"),
        choices=tuple(sorted(map(str, action.choices or ()))),  # some are made of sets
    )
