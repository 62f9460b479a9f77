"""What our files declare, read from their text, as changes to be made.

A file with a subclass imports SGLang, and nothing may be imported before everything is checked; so declarations
(:mod:`sglang_patches.declarations`) are read with ``ast``, like upstream's own text.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sglang_patches import declarations
from sglang_patches.changes import (
    Binding,
    Change,
    Extension,
    ForwardRegistration,
    Need,
    Patch,
    Registration,
    Reliance,
    upstream_symbol,
)
from sglang_patches.fingerprint import module_path


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """One decorator, or one entry of ``RELIED_ON``, as it was read."""

    kind: str
    """Name of the decorator, or ``RELIED_ON``."""
    module: str
    """Our module."""
    qualname: str
    """What is decorated, inside of the module."""
    line: int
    arguments: Mapping[str, Any]
    """By name."""
    members: tuple[Declaration, ...] = ()
    """Declarations of a class's methods."""


_SIGNATURES = {
    decorator.__name__: inspect.signature(decorator)
    for decorator in (
        declarations.binds,
        declarations.overrides,
        declarations.registers,
        declarations.registers_forward,
        declarations.subclasses,
        declarations.wraps_upstream,
    )
}


def changes_in(module: str) -> tuple[Change, ...]:
    """What one of our files declares."""
    return tuple(_MAKERS[declaration.kind](declaration) for declaration in declared_in(module))


def _binding(declared: Declaration) -> Binding:
    given = declared.arguments
    symbol = upstream_symbol(given["upstream"])
    overrides = tuple(_override(given["upstream"], member) for member in declared.members)
    return Binding(
        need=Need(symbol=symbol, action="bind", why=_reasons(overrides), ours=_ours(declared)),
        overrides=overrides,
        places=tuple(f"sglang.srt.{place}" for place in given.get("at", ())),
        module=declared.module,
        name=declared.qualname,
    )


def _override(upstream_class: str, member: Declaration) -> Need:
    given = member.arguments
    name = given.get("of") or f"{upstream_class}.{member.qualname.rpartition('.')[2]}"
    return _need(member, name, "override")


def _reasons(overrides: Sequence[Need]) -> str:
    return "; ".join(dict.fromkeys(need.why for need in overrides))


def _patch_of(declared: Declaration) -> Patch:
    need = _need(declared, declared.arguments["upstream"], "wrap")
    return Patch(need=need, module=declared.module, name=declared.qualname)


def _reliance(declared: Declaration) -> Reliance:
    return Reliance(need=_need(declared, declared.arguments["upstream"], "rely on"))


def _registration(declared: Declaration) -> Registration:
    given = declared.arguments
    module, _, registry = given["registry"].partition(":")
    need = _need(declared, f"{module}:{given['by']}", "register")
    return Registration(need=need, registry=registry, key=given["key"], module=declared.module, name=declared.qualname)


def _forward(declared: Declaration) -> ForwardRegistration:
    op = declared.arguments["op"]
    need = _need(declared, f"{op}.forward_native", "register")
    key = op.partition(":")[2]
    return ForwardRegistration(need=need, registry="", key=key, module=declared.module, name=declared.qualname)


def _extension(declared: Declaration) -> Extension:
    upstream_class = declared.arguments["upstream"]
    return Extension(overrides=tuple(_override(upstream_class, member) for member in declared.members))


def _need(declared: Declaration, upstream: str, action: str) -> Need:
    symbol = upstream_symbol(upstream, declared.arguments["fingerprint"])
    return Need(symbol=symbol, action=action, why=declared.arguments["why"], ours=_ours(declared))


def _ours(declared: Declaration) -> str:
    return f"{declared.module}:{declared.line}"


_MAKERS: dict[str, Callable[[Declaration], Change]] = {
    "binds": _binding,
    "wraps_upstream": _patch_of,
    "registers": _registration,
    "registers_forward": _forward,
    "subclasses": _extension,
    "RELIED_ON": _reliance,
}


@cache
def declared_in(module: str) -> tuple[Declaration, ...]:
    """What our module ``module`` declares, in the order of its text; the module is not imported."""
    path = module_path(module)
    assert path is not None, f"{module} has no file"
    return _Reader(module, path).declarations()


class _Reader:
    def __init__(self, module: str, path: Path) -> None:
        self._module = module
        self._tree = ast.parse(path.read_text(encoding="utf-8"))
        self._constants = {
            target.id: node.value
            for node in self._tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }

    def declarations(self) -> tuple[Declaration, ...]:
        return (*self._decorated(self._tree.body, ""), *self._relied_on())

    def _decorated(self, body: list[ast.stmt], prefix: str) -> tuple[Declaration, ...]:
        return tuple(
            self._declaration(node, call, prefix)
            for node in body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
            for call in reversed(node.decorator_list)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _SIGNATURES
        )

    def _declaration(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, call: ast.Call, prefix: str
    ) -> Declaration:
        assert isinstance(call.func, ast.Name)
        qualname = prefix + node.name
        by_name = {keyword.arg: self._value(keyword.value) for keyword in call.keywords if keyword.arg}
        given = _SIGNATURES[call.func.id].bind(*map(self._value, call.args), **by_name)
        return Declaration(
            kind=call.func.id,
            module=self._module,
            qualname=qualname,
            line=node.lineno,
            arguments=given.arguments,
            members=self._decorated(node.body, f"{qualname}.") if isinstance(node, ast.ClassDef) else (),
        )

    def _relied_on(self) -> list[Declaration]:
        node = self._constants.get("RELIED_ON")
        if node is None:
            return []
        assert isinstance(node, ast.Dict), f"RELIED_ON of {self._module} is not a dictionary"
        return [self._reliance(key, value) for key, value in zip(node.keys, node.values, strict=True) if key]

    def _reliance(self, key: ast.expr, value: ast.expr) -> Declaration:
        assert isinstance(value, ast.Tuple)
        fingerprint, why = (self._value(element) for element in value.elts)
        arguments = {"upstream": self._value(key), "fingerprint": fingerprint, "why": why}
        return Declaration(
            kind="RELIED_ON", module=self._module, qualname="RELIED_ON", line=key.lineno, arguments=arguments
        )

    def _value(self, node: ast.expr) -> Any:
        """A literal, or a constant of the same file."""
        if isinstance(node, ast.Name) and node.id in self._constants:
            node = self._constants[node.id]
        return ast.literal_eval(node)
