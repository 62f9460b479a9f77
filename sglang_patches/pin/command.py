"""``python -m sglang_patches diff WHEEL_OR_FOLDER``: what a move of the pin would cost.

Exit status as of ``diff``: 0 when every symbol is the same, 1 when some are not, 2 when there is nothing to compare.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
from pathlib import Path

from sglang_patches.pin import output
from sglang_patches.pin.comparison import compare
from sglang_patches.pin.files import ReleaseError, installed_files, open_files
from sglang_patches.pin.release import Release
from sglang_patches.pin.watched import WatchedSymbol, watched_symbols


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare ``diff`` and its options."""
    parser = commands.add_parser("diff", help="compare every symbol that the patches know with another SGLang")
    parser.add_argument("release", type=Path, metavar="WHEEL_OR_FOLDER", help="a wheel, an unpacked one, or a checkout")
    parser.add_argument("--symbol", help="this symbol only: its name, or the end of it (RadixCache.insert)")
    parser.add_argument("--summary", action="store_true", help="counts only, no source text")
    parser.add_argument("--json", action="store_true", help="machine-readable output, texts included")


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; the exit status."""
    try:
        symbols = _chosen(watched_symbols(), arguments.symbol)
        old, new = Release(installed_files()), Release(open_files(arguments.release))
        changes = compare(symbols, old, new)
    except ReleaseError as error:
        print(f"sglang_patches: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(output.as_data(changes, old, new), indent=1))
    else:
        print(output.heading(old, new, arguments.release.name), end="\n\n")
        if not arguments.summary:
            # A symbol that is the same is shown only when it is asked for by name.
            shown = [change for change in changes if arguments.symbol or change.state != "same"]
            print(*output.sections(shown, old, new, is_coloured=_is_coloured()), sep="\n")
        if not arguments.symbol:
            print(*output.summary(changes), sep="\n")
    return 0 if all(change.state == "same" for change in changes) else 1


def _is_coloured() -> bool:
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def _chosen(symbols: list[WatchedSymbol], wanted: str | None) -> list[WatchedSymbol]:
    if wanted is None:
        return symbols
    chosen = [symbol for symbol in symbols if f".{symbol.name}".endswith(f".{wanted}")]
    if not chosen:
        near = difflib.get_close_matches(wanted, [symbol.qualname for symbol in symbols], n=1, cutoff=0.0)
        raise ReleaseError(f"no patch knows {wanted}; the nearest name is {near[0]}")
    return chosen
