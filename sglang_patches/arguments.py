"""The arguments that the installed SGLang's parser takes, as lines of the launcher's table.

The launcher checks deployment files against its own copy, `prefillshare/serving/plan/known_options.json`; this is what
that file must say.
"""

from __future__ import annotations

import argparse
import json

Line = tuple[list[str], str, str, str, list[str]]
"""Spellings, field, number of values, kind of a value, choices."""

_KINDS = {"int": "int", "float": "float", "loads": "json"}


def installed_arguments() -> str:
    """Return the text of the table.

    Effects: imports SGLang.
    """
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    return "[\n" + ",\n".join(json.dumps(_line(action)) for action in parser._actions) + "\n]\n"


def _line(action: argparse.Action) -> Line:
    return (
        list(action.option_strings),
        action.dest,
        str(action.nargs if action.nargs is not None else 1),
        _KINDS.get(getattr(action.type, "__name__", "str"), "str"),
        sorted(map(str, action.choices or ())),  # some are made of sets
    )
