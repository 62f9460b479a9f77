"""``python -m sglang_patches report``: every patch and whether it fits.

Reads source text only: it needs no GPU and takes well under a second. ``--apply``
also imports SGLang and applies the patches in this process, to see that they take.
``python -m sglang_patches arguments``: what the launcher's ``known_options.json`` must say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from typing import TypedDict

from sglang_patches.arguments import installed_arguments
from sglang_patches.bindings import ENGINE_PATCHES, PatchError, apply
from sglang_patches.cpu.patches import CPU_PATCHES
from sglang_patches.fingerprint import (
    PINNED_SGLANG,
    installed_sglang,
    module_path,
    read_source,
)
from sglang_patches.patch import Patch


class Row(TypedDict):
    """One line of the report."""

    group: str
    target: str
    action: str
    why: str
    upstream: str
    state: str


def rows() -> list[Row]:
    """The report as data, in the order in which the patches are applied."""
    groups = (("engine", ENGINE_PATCHES), ("cpu", CPU_PATCHES))
    return [_row(group, patch) for group, patches in groups for patch in patches]


def _row(group: str, patch: Patch) -> Row:
    return Row(
        group=group,
        target=patch.symbol.name,
        action="wrap" if patch.wrap else "rely on",
        why=patch.why.removeprefix("relied on: "),
        upstream=_upstream_place(patch),
        state=_state(patch),
    )


def _upstream_place(patch: Patch) -> str:
    symbol = patch.symbol
    source = read_source(symbol.module, symbol.qualname)
    if source is None:
        return "torch" if module_path(symbol.module) is None else symbol.module
    relative = source.path.parts[source.path.parts.index("sglang") :]
    return f"{'/'.join(relative)}:{source.line}"


def _state(patch: Patch) -> str:
    problem = patch.symbol.problem()
    if problem is not None:
        return "missing" if "does not exist" in problem else "changed upstream"
    if patch.wrap is None:
        return "as expected"
    return "applied" if patch.is_applied() else "ready"


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
        print(json.dumps({"sglang": found, "pinned": PINNED_SGLANG, "ok": good, "patches": data}, indent=1))
    else:
        print(*_table(data), sep="\n")
        verdict = "every patch fits" if good else "the patches do NOT fit"
        print(f"\nSGLang {found} (pinned {PINNED_SGLANG}): {verdict}")
    return 0 if good else 1


def main(argv: list[str] | None = None) -> int:
    """Entry point; the exit status is 0 only when every patch fits."""
    parser = argparse.ArgumentParser(prog="python -m sglang_patches")
    commands = parser.add_subparsers(dest="command", required=True)
    report = commands.add_parser("report", help="list every patch and its state")
    report.add_argument("--json", action="store_true", help="machine-readable output")
    report.add_argument("--apply", action="store_true", help="apply them in this process first")
    commands.add_parser("arguments", help="print the options of the installed SGLang, as known_options.json has them")
    arguments = parser.parse_args(argv)
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
