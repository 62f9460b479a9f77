"""Where one SGLang defines what, found in its text; nothing of it is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from sglang_patches.fingerprint import Parsed, cut_out, parse
from sglang_patches.pin.files import ReleaseError, SourceFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class Definition:
    """One symbol as a release has it."""

    module: str
    """Dotted name of the module that defines it."""
    qualname: str
    """Name inside the module."""
    path: str
    """Its file, from the package on."""
    line: int
    """1-based."""
    text: str
    """Its source, without decorators."""
    imported_from: str | None = None
    """Dotted module that an import statement takes it from; None for what is defined here."""

    @property
    def place(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Module:
    path: str
    parsed: Parsed


class Release:
    """One SGLang, read file by file when asked."""

    def __init__(self, files: SourceFiles) -> None:
        self._files = files
        self._parsed: dict[str, _Module | None] = {}

    @property
    def version(self) -> str | None:
        """None where nothing beside the source says it."""
        return self._files.version

    def define(self, module: str, qualname: str) -> Definition | None:
        """``qualname`` of ``module``; None if the file or the symbol is not there."""
        read = self._parse(module)
        found = cut_out(read.parsed, qualname) if read else None
        if read is None or found is None:
            return None
        node, text = found
        source = _imported_module(node, module) if isinstance(node, ast.ImportFrom) else None
        return Definition(
            module=module, qualname=qualname, path=read.path, line=node.lineno, text=text, imported_from=source
        )

    def inherited(self, module: str, qualname: str) -> Definition | None:
        """The method that a class has from a class it stands on; None if it has none, or is not there itself."""
        owner, _, name = qualname.rpartition(".")
        found = (self.define(place, f"{base}.{name}") for place, base in self._ancestors(module, owner, set()))
        return next((definition for definition in found if definition), None)

    def _ancestors(self, module: str, owner: str, seen: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
        """Module and name of each class that a class stands on, the nearest first."""
        seen.add((module, owner))
        for base in self._bases(module, owner):
            # A base is known by its name alone: it may be imported from a package that only hands it on. So a class
            # of the same name elsewhere may be taken for it, and even stand on this one.
            for definition in self.search(base):
                if definition.qualname == base and (definition.module, base) not in seen:
                    yield definition.module, base
                    yield from self._ancestors(definition.module, base, seen)

    def _bases(self, module: str, owner: str) -> list[str]:
        read = self._parse(module)
        found = cut_out(read.parsed, owner) if read and owner else None
        if found is None or not isinstance(found[0], ast.ClassDef):
            return []
        return [ast.unparse(base).rpartition(".")[2] for base in found[0].bases]

    def search(self, qualname: str) -> Iterator[Definition]:
        """Every function, method or class that has the last part of ``qualname`` as its name, wherever it is defined.

        Names such as ``__init__`` are looked for in classes of the same name only.
        """
        *owners, name = qualname.split(".")
        words = [*owners, name] if name.startswith("__") else [name]
        for module, text in self._texts.items():
            # Parsing a whole release takes a minute; the words sort nearly all files out.
            if all(_defines(text, word) for word in words):
                read = self._parse(module)
                for found in _qualnames(read.parsed.tree.body, name) if read else ():
                    definition = self.define(module, found)
                    if definition is not None:
                        yield definition

    @cached_property
    def _texts(self) -> dict[str, str]:
        return {_module_name(name): self._files.read(name) or "" for name in self._files.names()}

    def _parse(self, module: str) -> _Module | None:
        if module not in self._parsed:
            self._parsed[module] = self._read(module)
        return self._parsed[module]

    def _read(self, module: str) -> _Module | None:
        base = module.replace(".", "/")
        for path in (f"{base}.py", f"{base}/__init__.py"):
            text = self._files.read(path)
            if text is not None:
                return _Module(path=path, parsed=_parse(text, path))
        return None


def _parse(text: str, path: str) -> Parsed:
    try:
        return parse(text)
    except SyntaxError as error:
        python = ".".join(map(str, sys.version_info[:2]))
        raise ReleaseError(
            f"{path}:{error.lineno} cannot be read by Python {python}: use the Python that this release is for"
        ) from error


def _module_name(path: str) -> str:
    return path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _imported_module(node: ast.ImportFrom, importer: str) -> str | None:
    if node.level == 0:
        return node.module
    package = importer.split(".")[: -node.level]
    return ".".join((*package, node.module)) if node.module else ".".join(package)


def _defines(text: str, name: str) -> bool:
    return name in text and re.search(rf"\b(?:def|class)\s+{re.escape(name)}\b", text) is not None


def _qualnames(body: list[ast.stmt], name: str, prefix: str = "") -> Iterator[str]:
    """Where ``name`` is defined at the top of a module or of a class; not inside of functions."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name:
            yield prefix + name
        if isinstance(node, ast.ClassDef):
            yield from _qualnames(node.body, name, f"{prefix}{node.name}.")
