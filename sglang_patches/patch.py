"""What a patch is, and how one is put on a live object."""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any

from sglang_patches.fingerprint import read_source

MARK = "__prefillshare_patch__"

Wrapper = Callable[[Any], Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """An upstream function, method, class or imported name, as it was read."""

    module: str
    """Dotted module name."""
    qualname: str
    """Name inside the module, dotted for members of a class."""
    fingerprint: str | None
    """Hash of its source text; None for what is not SGLang's (torch)."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.qualname}"

    def problem(self) -> str | None:
        """Why this symbol is not the one the patch was written for, or None."""
        if self.fingerprint is None:
            return None
        source = read_source(self.module, self.qualname)
        if source is None:
            return f"{self.name} does not exist in the installed SGLang"
        if source.fingerprint != self.fingerprint:
            return (
                f"{self.name} ({source.path}:{source.line}) has fingerprint "
                f"{source.fingerprint}, expected {self.fingerprint}"
            )
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Replacement:
    """One attribute to be changed, with what it was."""

    holder: Any
    name: str
    original: Any
    wrapped: Any

    def install(self) -> None:
        setattr(self.holder, self.name, self.wrapped)

    def undo(self) -> None:
        if isinstance(self.original, _Inherited):
            delattr(self.holder, self.name)
        else:
            setattr(self.holder, self.name, self.original)


class _Inherited:
    """Marks an attribute that the holder had from a base class only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """One change to the engine: a wrapped symbol, or one that is only relied on."""

    symbol: Symbol
    why: str
    """One clause for the report: what would go wrong without it."""
    wrap: Wrapper | None = None
    """Makes the replacement from the original; None: relied on, left as it is."""

    def is_applied(self) -> bool:
        """True when the live object carries this patch; never imports anything."""
        if self.wrap is None:
            return True
        holder: Any = sys.modules.get(self.symbol.module)
        for part in self.symbol.qualname.split("."):
            holder = getattr(holder, part, None)
        return getattr(holder, MARK, None) == self.symbol.name

    def prepare(self) -> Replacement:
        """Resolve the live symbol and make its replacement, changing nothing.

        Raises: ImportError or AttributeError when the symbol is not there.
        """
        assert self.wrap is not None
        holder, name = self._owner()
        original = inspect.getattr_static(holder, name)
        function = getattr(original, "__func__", original)
        wrapped = self.wrap(function)
        if isinstance(function, FunctionType):
            wrapped = functools.wraps(function)(wrapped)
        setattr(wrapped, MARK, self.symbol.name)
        if isinstance(original, classmethod | staticmethod):
            wrapped = type(original)(wrapped)
        owned = name in vars(holder)
        return Replacement(
            holder=holder,
            name=name,
            original=original if owned else _Inherited(),
            wrapped=wrapped,
        )

    def _owner(self) -> tuple[Any, str]:
        holder: Any = importlib.import_module(self.symbol.module)
        *path, name = self.symbol.qualname.split(".")
        for part in path:
            holder = getattr(holder, part)
        return holder, name


def sglang_patch(module: str, qualname: str, fingerprint: str | None, why: str, wrap: Wrapper | None = None) -> Patch:
    """A patch of ``qualname`` in ``module``: a name below ``sglang.srt``, or ``torch``."""
    full_module = module if module == "torch" else f"sglang.srt.{module}"
    return Patch(symbol=Symbol(module=full_module, qualname=qualname, fingerprint=fingerprint), why=why, wrap=wrap)
