"""How a file of ours says what it changes in SGLang, in words that are read without running it.

Code, reason and check stand together, as decorators whose arguments are literals:

    @binds("lora.lora_manager:LoRAManager", at=("model_executor.model_runner",))
    class LoRAManager(upstream.LoRAManager):
        @overrides("6717dd923e136d9a", "prompts would be prefilled with the adapter")
        def prepare_lora_batch(self, forward_batch): ...

    @wraps_upstream("server_args:ServerArgs.check_server_args", "1d7d36420d953c33", "unsupported settings would ...")
    def wrap_check_server_args(original): ...

    RELIED_ON = {"mem_cache.radix_cache:RadixKey": ("dcee2fbb2cec9878", "row ownership ...")}

Upstream names are ``module:name``, the module one below ``sglang.srt``. At run time the decorators do nothing;
:func:`declared_in` reads them with ``ast``, because a file with a subclass cannot be imported before SGLang is, and
everything is checked before that.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from sglang_patches.fingerprint import module_path

_Declared = TypeVar("_Declared")


def binds(upstream: str, *, at: tuple[str, ...] = ()) -> Callable[[_Declared], _Declared]:
    """This subclass takes the place of ``upstream``, where that is defined and in the modules ``at`` that import it."""
    return _as_it_is


def overrides(fingerprint: str, why: str, *, of: str | None = None) -> Callable[[_Declared], _Declared]:
    """This method overrides one of the upstream class whose text has ``fingerprint``.

    ``why`` says what would go wrong without it; ``of`` names the method where the upstream class inherits it.
    """
    return _as_it_is


def wraps_upstream(upstream: str, fingerprint: str | None, why: str) -> Callable[[_Declared], _Declared]:
    """This function makes from ``upstream`` what takes its place; the fingerprint is None for what is not SGLang's."""
    return _as_it_is


def registers(registry: str, key: str, *, by: str, fingerprint: str, why: str) -> Callable[[_Declared], _Declared]:
    """This object is entered under ``key`` in upstream's dictionary ``registry``, as its function ``by`` would do."""
    return _as_it_is


def registers_forward(op: str, fingerprint: str, why: str) -> Callable[[_Declared], _Declared]:
    """This function computes the operator class ``op`` on our platform; ``fingerprint`` is its ``forward_native``'s."""
    return _as_it_is


def subclasses(upstream: str) -> Callable[[_Declared], _Declared]:
    """This subclass of ``upstream`` takes its place by a registration, not by its name."""
    return _as_it_is


def _as_it_is(declared: _Declared) -> _Declared:
    return declared


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


_PARAMETERS = {
    "binds": ("upstream",),
    "overrides": ("fingerprint", "why"),
    "wraps_upstream": ("upstream", "fingerprint", "why"),
    "registers": ("registry", "key"),
    "registers_forward": ("op", "fingerprint", "why"),
    "subclasses": ("upstream",),
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
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in _PARAMETERS
        )

    def _declaration(
        self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, call: ast.Call, prefix: str
    ) -> Declaration:
        assert isinstance(call.func, ast.Name)
        qualname = prefix + node.name
        given = dict(zip(_PARAMETERS[call.func.id], call.args, strict=False))
        given |= {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
        return Declaration(
            kind=call.func.id,
            module=self._module,
            qualname=qualname,
            line=node.lineno,
            arguments={name: self._value(value) for name, value in given.items()},
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
