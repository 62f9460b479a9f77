"""Identity of upstream source text, taken without importing it.

A patch is right only for the code it was written against. Each symbol that a
patch replaces or relies on is cut out of the installed file with ``ast`` and
hashed, so the check needs neither a GPU nor the ten seconds that importing
SGLang takes.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PINNED_SGLANG = "0.5.17"
NOT_INSTALLED = "SGLang is not installed here, so there is nothing to look at: pip install 'prefillshare[engine]'"
_LINES = re.compile(rb"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One symbol's source text as installed."""

    path: Path
    """File that defines the symbol."""
    line: int
    """1-based line of its ``def``, ``class`` or assignment."""
    fingerprint: str
    """First 16 hex digits of the SHA-256 of its dedented text."""


def installed_sglang() -> str | None:
    """Version of the installed ``sglang`` distribution, None if there is none."""
    try:
        return version("sglang")
    except PackageNotFoundError:
        return None


@cache
def _package_root(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    locations = list(spec.submodule_search_locations or []) if spec else []
    return Path(locations[0]) if locations else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """A module's text, ready to have its symbols cut out."""

    tree: ast.Module
    lines: list[bytes]
    """In UTF-8, of which the columns of ``ast`` are offsets; split where Python does it, their ends included."""

    def segment(self, node: ast.stmt) -> str:
        """The text of a statement.

        As ``ast.get_source_segment``, which goes through the whole file once more for each: four seconds for all
        symbols that the patches stand on.
        """
        assert node.end_lineno is not None
        first, *others = self.lines[node.lineno - 1 : node.end_lineno]
        if not others:
            return first[node.col_offset : node.end_col_offset].decode()
        return b"".join((first[node.col_offset :], *others[:-1], others[-1][: node.end_col_offset])).decode()


def parse(text: str) -> Parsed:
    """Parse a module.

    Raises: SyntaxError.
    """
    return Parsed(tree=ast.parse(text), lines=_LINES.findall(text.encode()))


@cache
def _parse(path: Path) -> Parsed:
    return parse(path.read_text(encoding="utf-8"))


def forget_parsed() -> None:
    """Give back what parsed files take, which is much, and what an engine's processes need once."""
    _parse.cache_clear()


def module_path(module: str) -> Path | None:
    """File of a dotted module name, found by path and not by import."""
    package, *rest = module.split(".")
    root = _package_root(package)
    if root is None:
        return None
    base = root.joinpath(*rest)
    candidates = (base.with_suffix(".py"), base / "__init__.py")
    return next((path for path in candidates if path.is_file()), None)


def _defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return [node.target.id]
    return []


def _find(body: list[ast.stmt], qualname: str) -> ast.stmt | None:
    head, _, rest = qualname.partition(".")
    for node in body:
        if head not in _defined_names(node):
            continue
        if not rest:
            return node
        if isinstance(node, ast.ClassDef):
            return _find(node.body, rest)
    return None


def cut_out(parsed: Parsed, qualname: str) -> tuple[ast.stmt, str] | None:
    """The statement that defines ``qualname`` in a module, and its text; None if there is none."""
    node = _find(parsed.tree.body, qualname)
    return None if node is None else (node, parsed.segment(node))


def read_source(module: str, qualname: str) -> Source | None:
    """Locate and hash ``module:qualname``; None if the file or symbol is gone."""
    path = module_path(module)
    if path is None:
        return None
    found = cut_out(_parse(path), qualname)
    if found is None:
        return None
    node, segment = found
    digest = hashlib.sha256(segment.encode()).hexdigest()[:16]
    return Source(path=path, line=node.lineno, fingerprint=digest)
