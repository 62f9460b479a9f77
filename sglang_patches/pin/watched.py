"""The symbols of SGLang that the patches change or rely on, whatever table lists them.

The comparison knows this form only; how the table is written is known to ``watched_symbols`` alone.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sglang_patches.bindings import CPU_PATCHES, ENGINE_PATCHES
from sglang_patches.changes import Need, needs_of
from sglang_patches.fingerprint import module_path

Kind = Literal["bind", "override", "wrap", "register", "rely on"]

LOOK_UP = "look up"
"""Action of a place at which a bound class is looked up; it is there or the import beside it fails."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ours:
    """What of ours has to do with a symbol."""

    path: str
    """Our file, from the package on."""
    line: int
    """1-based."""
    text: str | None
    """What stands in the symbol's place; None where it is only relied on."""

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
    """What is done to it. Of a class that is bound only the head counts: its methods are symbols of their own."""
    why: str
    """What would go wrong without ours, or what is relied on."""
    ours: Ours

    @property
    def name(self) -> str:
        return f"{self.module}.{self.qualname}"

    def relevant(self, text: str) -> str:
        """The part of a definition's text that ours stands on."""
        return head_of(text) if self.kind == "bind" else text


def watched_symbols() -> list[WatchedSymbol]:
    """Every symbol of SGLang in the table, in its order; nothing of torch."""
    needs = needs_of((*ENGINE_PATCHES, *CPU_PATCHES))
    return [_watched(need) for need in needs if need.action != LOOK_UP and need.symbol.module.startswith("sglang.")]


def head_of(class_text: str) -> str:
    """Name and bases of a class."""
    node = ast.parse(class_text).body[0]
    if not isinstance(node, ast.ClassDef):
        return class_text  # a function or an import has taken its place
    return f"class {node.name}({', '.join(map(ast.unparse, (*node.bases, *node.keywords)))})"


def _watched(need: Need) -> WatchedSymbol:
    kind: Kind = need.action  # type: ignore[assignment]
    module, _, line = need.ours.partition(":")
    text = None if kind == "rely on" else _text_at(module, int(line))
    return WatchedSymbol(
        module=need.symbol.module,
        qualname=need.symbol.qualname,
        kind=kind,
        why=need.why,
        ours=Ours(path=_path(module), line=int(line), text=head_of(text) if text and kind == "bind" else text),
    )


@cache
def _parsed(module: str) -> tuple[str, ast.Module]:
    path = module_path(module)
    assert path is not None
    text = path.read_text(encoding="utf-8")
    return text, ast.parse(text)


def _path(module: str) -> str:
    path = module_path(module)
    assert path is not None
    return "/".join(path.parts[-len(module.split(".")) - (path.name == "__init__.py") :])


def _text_at(module: str, line: int) -> str | None:
    """Source of the function, method or class of ours that begins at a line."""
    text, tree = _parsed(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.lineno == line:
            return ast.get_source_segment(text, node, padded=True)
    return None
