"""The symbols of SGLang that the patches replace or rely on, whatever table lists them.

The comparison knows this form only; how the table is written is known to ``watched_symbols`` alone.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sglang_patches.bindings import ENGINE_PATCHES
from sglang_patches.cpu.patches import CPU_PATCHES
from sglang_patches.patch import Patch, Wrapper

Kind = Literal["replaced", "relied on"]

HOUSE = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Override:
    """What stands in a symbol's place."""

    name: str
    """Its name in our file."""
    path: str
    """Our file, from the package on."""
    line: int
    """1-based."""
    text: str
    """Its source."""

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class WatchedSymbol:
    """One symbol upstream, and why it matters here."""

    module: str
    """Dotted module name."""
    qualname: str
    """Name inside the module."""
    kind: Kind
    """Whether something of ours stands in its place."""
    why: str
    """What would go wrong without the override, or what is relied on."""
    ours: Override | None
    """None for what is only relied on."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.qualname}"


def watched_symbols() -> list[WatchedSymbol]:
    """Every symbol of SGLang in the table, in its order; nothing of torch."""
    patches = (*ENGINE_PATCHES, *CPU_PATCHES)
    return [_watched(patch) for patch in patches if patch.symbol.fingerprint is not None]


def _watched(patch: Patch) -> WatchedSymbol:
    return WatchedSymbol(
        module=patch.symbol.module,
        qualname=patch.symbol.qualname,
        kind="relied on" if patch.wrap is None else "replaced",
        why=patch.why.removeprefix("relied on: "),
        ours=None if patch.wrap is None else _override(patch.wrap),
    )


def _override(function: Wrapper) -> Override:
    lines, line = inspect.getsourcelines(function)
    path = Path(inspect.getfile(function)).resolve().relative_to(HOUSE)
    return Override(name=function.__qualname__, path=path.as_posix(), line=line, text="".join(lines))
