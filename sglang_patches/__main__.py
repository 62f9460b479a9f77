"""``python -m sglang_patches report``: every patch and whether it fits.

Reads source text only: it needs no GPU and takes well under a second. ``--apply``
also imports SGLang and applies the patches in this process, to see that they take.
``python -m sglang_patches arguments``: what the launcher's ``known_options.json`` must say.
``python -m sglang_patches diff WHEEL_OR_FOLDER``: what another SGLang would cost (``pin/``).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator
from typing import TypedDict

from sglang_patches.arguments import installed_arguments
from sglang_patches.bindings import CPU_PATCHES, ENGINE_PATCHES, apply
from sglang_patches.changes import (
    Binding,
    Change,
    CheckedOnly,
    Extension,
    Need,
    Patch,
    PatchError,
    Registration,
    Reliance,
    Symbol,
)
from sglang_patches.fingerprint import (
    NOT_INSTALLED,
    PINNED_SGLANG,
    installed_sglang,
    module_path,
    read_source,
)
from sglang_patches.pin import command as diff

GROUPS = (("engine", ENGINE_PATCHES), ("cpu", CPU_PATCHES))

CUT_OFF = 128 + 13
"""As the shell tells a process that wrote into a closed pipe: neither "fits" nor "differs"."""


class Row(TypedDict):
    """One line of the report: an upstream symbol that a change stands on."""

    group: str
    target: str
    action: str
    why: str
    upstream: str
    state: str
    ours: str
    """Our module and line."""


def rows() -> list[Row]:
    """The report as data, in the order in which the changes are made."""
    return [_row(group, change, need) for group, changes in GROUPS for change in changes for need in change.needs]


def _row(group: str, change: Change, need: Need) -> Row:
    return Row(
        group=group,
        target=need.symbol.name,
        action=need.action,
        why=need.why,
        upstream=_upstream_place(need.symbol),
        state=_state(change, need),
        ours=need.ours,
    )


def _upstream_place(symbol: Symbol) -> str:
    source = read_source(symbol.module, symbol.qualname)
    if source is None:
        return "torch" if module_path(symbol.module) is None else symbol.module
    relative = source.path.parts[source.path.parts.index("sglang") :]
    return f"{'/'.join(relative)}:{source.line}"


def _state(change: Change, need: Need) -> str:
    problem = need.symbol.problem()
    if problem is not None:
        return "missing" if "does not exist" in problem else "changed upstream"
    if isinstance(change, CheckedOnly):
        return "as expected"
    return "applied" if change.is_applied() else "ready"


def counts() -> dict[str, int]:
    """How many changes of each kind there are, and upstream symbols that are only relied on."""
    changes = [change for _, group in GROUPS for change in group]
    kinds = {"bindings": Binding, "registrations": Registration, "patches": Patch, "relied_on": Reliance}
    found = {name: sum(isinstance(change, kind) for change in changes) for name, kind in kinds.items()}
    return found | {
        "overrides": sum(len(change.overrides) for change in changes if isinstance(change, Binding | Extension))
    }


def _table(data: list[Row]) -> Iterator[str]:
    columns = ("group", "action", "target", "upstream", "state", "why")
    cells = [columns, *(tuple(row[name] for name in columns) for row in data)]  # type: ignore[literal-required]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(padded).rstrip()


def _report(as_json: bool) -> int:
    data = rows()
    found = installed_sglang()
    fits = found == PINNED_SGLANG
    good = fits and all(r["state"] not in ("missing", "changed upstream") for r in data)
    if as_json:
        told = {"sglang": found, "pinned": PINNED_SGLANG, "ok": good, "counts": counts(), "patches": data}
        print(json.dumps(told, indent=1))
    else:
        print(*_table(data), sep="\n")
        verdict = "every patch fits" if good else "the patches do NOT fit"
        print("\n" + ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in counts().items()))
        print(f"SGLang {found} (pinned {PINNED_SGLANG}): {verdict}")
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status is 0 only when every patch fits."""
    parser = argparse.ArgumentParser(prog="python -m sglang_patches")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="list every patch and its state")
    report.add_argument("--json", action="store_true", help="machine-readable output")
    report.add_argument("--apply", action="store_true", help="apply them in this process first")
    commands.add_parser("arguments", help="print the options of the installed SGLang, as known_options.json has them")
    diff.add_parser(commands)
    arguments = parser.parse_args(argv)
    # A script is told in the report's own form.
    if installed_sglang() is None and not (arguments.command == "report" and arguments.json):
        print(f"sglang_patches: {NOT_INSTALLED}", file=sys.stderr)
        return 2
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read has seen enough; without this, Python would complain once more when it closes the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CUT_OFF
    return status


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "diff":
        return diff.run(arguments)
    if arguments.command == "arguments":
        print(installed_arguments(), end="")
        return 0
    if arguments.apply:
        try:
            apply(CPU_PATCHES)
            apply(ENGINE_PATCHES)
        except PatchError as error:
            print(f"sglang_patches: {error}", file=sys.stderr)
    return _report(arguments.json)


if __name__ == "__main__":
    sys.exit(main())
