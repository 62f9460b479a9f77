"""The kinds of change to the live engine: a bound subclass, a registration, a replaced function or name.

Each says what it needs to find upstream, loads what it is made of without changing anything, and then lists the
assignments that bring it about, so that ``bindings.apply`` can check everything first and make all changes or none.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any, Protocol

from prefillshare.errors import PrefillShareError
from sglang_patches.fingerprint import read_source

MARK = "__prefillshare_patch__"

Wrapper = Callable[[Any], Any]


class PatchError(PrefillShareError):
    """The installed SGLang is not the one that the patches were written for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Symbol:
    """An upstream function, method, class or imported name, as it was read."""

    module: str
    """Dotted module name."""
    qualname: str
    """Name inside the module, dotted for members of a class."""
    fingerprint: str | None
    """Hash of its source text; None for what is only looked up, or is not SGLang's (torch)."""

    @property
    def name(self) -> str:
        return f"{self.module}.{self.qualname}"

    def problem(self) -> str | None:
        """Why this symbol is not the one the patch was written for, or None."""
        if self.fingerprint is None and not self.module.startswith("sglang."):
            return None
        source = read_source(self.module, self.qualname)
        if source is None:
            return f"{self.name} does not exist in the installed SGLang"
        if self.fingerprint is not None and source.fingerprint != self.fingerprint:
            return (
                f"{self.name} ({source.path}:{source.line}) has fingerprint "
                f"{source.fingerprint}, expected {self.fingerprint}"
            )
        return None


def upstream_symbol(name: str, fingerprint: str | None = None) -> Symbol:
    """The symbol ``module:qualname``, where the module is one below ``sglang.srt``, or ``torch``."""
    module, _, qualname = name.partition(":")
    full_module = module if module == "torch" else f"sglang.srt.{module}"
    return Symbol(module=full_module, qualname=qualname, fingerprint=fingerprint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """An upstream symbol that a change stands on, and where ours is."""

    symbol: Symbol
    action: str
    """What is done to it, for the report: bind, override, wrap, register, rely on."""
    why: str
    """What would go wrong without it, or what is relied on."""
    ours: str
    """Our module and the line in it, as ``module:line``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Assignment:
    """One attribute of an upstream module or class to be changed, with what it was."""

    holder: object
    name: str
    original: object
    replacement: object

    def make(self) -> None:
        setattr(self.holder, self.name, self.replacement)

    def undo(self) -> None:
        if isinstance(self.original, _Inherited):
            delattr(self.holder, self.name)
        else:
            setattr(self.holder, self.name, self.original)


class _Inherited:
    """Marks an attribute that the holder had from a base class only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of an upstream dictionary to be added or changed."""

    registry: dict[object, object]
    key: object
    original: object
    replacement: object

    def make(self) -> None:
        self.registry[self.key] = self.replacement

    def undo(self) -> None:
        if isinstance(self.original, _Inherited):
            del self.registry[self.key]
        else:
            self.registry[self.key] = self.original


class Change(Protocol):
    """One line of the table."""

    @property
    def needs(self) -> tuple[Need, ...]:
        """The upstream symbols that must be as they were read."""

    def is_applied(self) -> bool:
        """True when the live objects carry this change; never imports anything."""

    def load(self) -> None:
        """Import what the change is made of and applies to, changing nothing.

        Raises: PatchError when somebody else has changed it already.
        """

    def steps(self) -> list[Assignment | Entry]:
        """What brings the change about; only once every change of the table is loaded."""


class CheckedOnly:
    """A line of the table that changes nothing by itself: its symbols only have to be as they were read."""

    __slots__ = ()

    def is_applied(self) -> bool:
        return True

    def load(self) -> None:
        """Nothing to load."""

    def steps(self) -> list[Assignment | Entry]:
        return []


@dataclass(frozen=True, kw_only=True, slots=True)
class Reliance(CheckedOnly):
    """An upstream symbol that ours stands on without changing it."""

    need: Need

    @property
    def needs(self) -> tuple[Need, ...]:
        return (self.need,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Binding:
    """A subclass of ours in the place of an upstream class.

    It is bound in the module that defines the class, where functions and later imports look it up, and in each module
    that imported its name before. A class is bound by one subclass only: a second group of changes that touches the
    same class wraps its methods.
    """

    need: Need
    """The class."""
    overrides: tuple[Need, ...]
    """Its methods."""
    places: tuple[str, ...]
    """Modules that import the name of the class."""
    module: str
    """Ours."""
    name: str
    """Of our class."""

    @property
    def needs(self) -> tuple[Need, ...]:
        lookups = (self._lookup(place) for place in self.places)
        return (self.need, *self.overrides, *lookups)

    def _lookup(self, place: str) -> Need:
        symbol = Symbol(module=place, qualname=self._upstream_name, fingerprint=None)
        return Need(symbol=symbol, action="look up", why=self.need.why, ours=self.need.ours)

    @property
    def _upstream_name(self) -> str:
        return self.need.symbol.qualname

    def is_applied(self) -> bool:
        ours = getattr(sys.modules.get(self.module), self.name, None)
        holders = self._holders()
        return (
            ours is not None and bool(holders) and all(vars(holder)[self._upstream_name] is ours for holder in holders)
        )

    def load(self) -> None:
        importlib.import_module(self.need.symbol.module)
        live = getattr(sys.modules[self.need.symbol.module], self._upstream_name)
        if live.__module__ != self.need.symbol.module:
            raise PatchError(f"already patched by someone else: {self.need.symbol.name} (it is {live.__module__}'s)")
        importlib.import_module(self.module)

    def steps(self) -> list[Assignment | Entry]:
        ours = getattr(sys.modules[self.module], self.name)
        return [
            Assignment(
                holder=holder, name=self._upstream_name, original=vars(holder)[self._upstream_name], replacement=ours
            )
            for holder in self._holders()
        ]

    def _holders(self) -> list[ModuleType]:
        # A place that is imported only later takes ours from the defining module.
        modules = (sys.modules.get(name) for name in (self.need.symbol.module, *self.places))
        return [module for module in modules if module is not None and self._upstream_name in vars(module)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Registration:
    """An object of ours in one of upstream's registries."""

    need: Need
    """The function that registers, whose text says what an entry means."""
    registry: str
    """Dotted name of the dictionary, inside of the function's module."""
    key: str
    module: str
    """Ours."""
    name: str

    @property
    def needs(self) -> tuple[Need, ...]:
        return (self.need,)

    def is_applied(self) -> bool:
        ours = getattr(sys.modules.get(self.module), self.name, None)
        if ours is None or self.need.symbol.module not in sys.modules:
            return False
        registry, key = self.place()
        return registry.get(key) is ours

    def load(self) -> None:
        importlib.import_module(self.need.symbol.module)
        importlib.import_module(self.module)

    def steps(self) -> list[Assignment | Entry]:
        registry, key = self.place()
        ours = getattr(sys.modules[self.module], self.name)
        return [Entry(registry=registry, key=key, original=registry.get(key, _Inherited()), replacement=ours)]

    def place(self) -> tuple[dict[object, object], object]:
        """The live dictionary, and the key in it."""
        found: object = sys.modules[self.need.symbol.module]
        for part in self.registry.split("."):
            found = getattr(found, part)
        assert isinstance(found, dict)
        return found, self.key


PLATFORM_OPS = "sglang.srt.layers.utils.multi_platform"
PLATFORM_KEY = "native"
"""What our platform of machines without an accelerator calls itself when operators are chosen."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardRegistration(Registration):
    """A function of ours that computes one class of operators on our platform."""

    def place(self) -> tuple[dict[object, object], object]:
        """As ``MultiPlatformOp.register_oot_forward`` has it: by platform, then by the class itself."""
        ops = importlib.import_module(PLATFORM_OPS).MultiPlatformOp
        op_class = getattr(sys.modules[self.need.symbol.module], self.key)
        return ops._oot_forward_registry.setdefault(PLATFORM_KEY, {}), op_class


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension(CheckedOnly):
    """A subclass that a registration loads and puts in the place of an upstream class."""

    overrides: tuple[Need, ...]
    """Its methods."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return self.overrides


@dataclass(frozen=True, kw_only=True, slots=True)
class Patch:
    """A function, method or imported name of upstream's that is replaced by one made from it."""

    need: Need
    module: str
    """Ours."""
    name: str
    """Of what makes the replacement from the original."""

    @property
    def needs(self) -> tuple[Need, ...]:
        return (self.need,)

    def is_applied(self) -> bool:
        holder: object = sys.modules.get(self.need.symbol.module)
        for part in self.need.symbol.qualname.split("."):
            holder = getattr(holder, part, None)
        return getattr(holder, MARK, None) == self.need.symbol.name

    def load(self) -> None:
        importlib.import_module(self.module)
        self.owner()

    def steps(self) -> list[Assignment | Entry]:
        holder, name = self.owner()
        original = inspect.getattr_static(holder, name)
        # A class or static method is wrapped inside of its descriptor.
        function = self._replacement(getattr(original, "__func__", original))
        is_descriptor = isinstance(original, classmethod | staticmethod)
        replacement = type(original)(function) if is_descriptor else function
        # What the class has from a base is to be deleted again, not set, when everything is undone.
        known = original if name in vars(holder) else _Inherited()
        return [Assignment(holder=holder, name=name, original=known, replacement=replacement)]

    def _replacement(self, function: Callable[..., Any]) -> Callable[..., Any]:
        make: Wrapper = getattr(sys.modules[self.module], self.name)
        replacement = make(function)
        if isinstance(function, FunctionType):
            replacement = functools.wraps(function)(replacement)
        setattr(replacement, MARK, self.need.symbol.name)
        return replacement

    def owner(self) -> tuple[object, str]:
        """The live module or class, and the name in it."""
        holder: object = importlib.import_module(self.need.symbol.module)
        *path, name = self.need.symbol.qualname.split(".")
        for part in path:
            holder = getattr(holder, part)
        return holder, name


def needs_of(changes: Sequence[Change]) -> Iterator[Need]:
    """Every upstream symbol that ``changes`` stand on."""
    for change in changes:
        yield from change.needs
