"""Aliases: names that stand for one module, or for several by weight.

A session stays with its module: the draw is a hash of alias, session and module, weighted by rendezvous. Every process
draws alike without asking anybody, and a change of weights moves no more sessions than the weights say.
"""

import hashlib
import math
import re
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from prefillshare.errors import ConfigError, short_repr
from prefillshare.naming.asked import Asked
from prefillshare.naming.rules import ByRules, read_by_rules

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a module or an alias may be called."""
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Alias:
    """One name for one module or several."""

    name: str
    """Name that clients put into "model"."""
    weights: Mapping[str, float]
    """Share of the calls by module; only their proportions matter."""

    @property
    def targets(self) -> tuple[str, ...]:
        """Every module that may be meant."""
        return tuple(self.weights)

    def find(self, asked: Asked, draw: Callable[[], float]) -> str:
        """Return the module that answers: always the same one for a session, else a drawn one; `draw` is in [0, 1)."""
        if len(self.weights) == 1:
            return next(iter(self.weights))
        if (session := asked.session) is not None:
            return min(self.weights, key=lambda module: self._distance(session, module))
        point = draw() * sum(self.weights.values())
        for module, weight in self.weights.items():
            point -= weight
            if point < 0:
                return module
        return next(module for module in reversed(list(self.weights)) if self.weights[module] > 0)

    def _distance(self, session: str, module: str) -> float:
        # The least of exponential times: module m has it with probability weight(m) / sum of weights.
        weight = self.weights[module]
        text = f"{self.name}\0{session}\0{module}".encode(errors="surrogatepass")
        number = int.from_bytes(hashlib.blake2b(text, digest_size=_HASH_BYTES).digest())
        return math.inf if weight == 0 else -math.log((number + 1) / (1 << 8 * _HASH_BYTES)) / weight


AnyAlias = Alias | ByRules


def read_aliases(table: object) -> dict[str, AnyAlias]:
    """Return the aliases of a table such as `{"latest": "math-v2", "math": {"math-v1": 0.9, "math-v2": 0.1}}`.

    Raises: ConfigError.
    """
    if not isinstance(table, Mapping):
        raise ConfigError(f"aliases is {short_repr(table)}: write a table of names, each with a module or with weights")
    return {str(name): read_alias(str(name), meaning) for name, meaning in table.items()}


def read_alias(name: str, meaning: object) -> AnyAlias:
    """Return the alias that means one module, by name, or several, by weight or by rules.

    Raises: ConfigError.
    """
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"alias {short_repr(name)} cannot be a model name: use up to 64 letters, digits, dots, dashes and "
            "underscores, starting with a letter or digit"
        )
    if isinstance(meaning, str) and meaning:
        return Alias(name=name, weights={meaning: 1.0})
    if isinstance(meaning, Mapping) and ("rules" in meaning or "classifier" in meaning):
        return read_by_rules(name, meaning)
    if not isinstance(meaning, Mapping) or not meaning:
        raise ConfigError(
            f'alias {name!r} is {short_repr(meaning)}: name a module ("math-v2"), or weights by module '
            '({ "math-v1" = 0.9, "math-v2" = 0.1 }), or default with rules or a classifier'
        )
    weights = {str(module): _read_weight(name, str(module), weight) for module, weight in meaning.items()}
    if not any(weights.values()):
        raise ConfigError(f"alias {name!r} has no weight above 0: give at least one module a share")
    if math.isinf(sum(weights.values())):
        raise ConfigError(f"alias {name!r} has weights too large to add up: only their proportions matter, as 9 and 1")
    return Alias(name=name, weights=weights)


def _read_weight(name: str, module: str, weight: Any) -> float:
    # An integer beyond the largest float is less than infinity, and no float can be made of it.
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= sys.float_info.max:
        raise ConfigError(
            f"alias {name!r} gives {module!r} the weight {short_repr(weight)}: it must be a number of at least 0"
        )
    return float(weight)


def check_aliases(aliases: Mapping[str, AnyAlias], base: str, modules: Collection[str]) -> None:
    """Check that every alias has a name of its own and means modules that are there.

    Raises: ConfigError.
    """
    for alias in aliases.values():
        if alias.name == base or alias.name in modules:
            raise ConfigError(f"alias {alias.name!r} is also the name of a module: give it another one")
        # Rules choose among aliases, too, though not among further rules: a name would mean itself.
        known = [*modules, *_of_modules(aliases)] if isinstance(alias, ByRules) else modules
        for target in alias.targets:
            if target not in known and isinstance(alias, ByRules) and target in alias.labels:
                raise ConfigError(
                    f"the classifier of alias {alias.name!r} has the label {target!r}, which is no decode module or "
                    f"alias of {', '.join(known)}: serve one of that name, or train the classifier without it"
                )
            if target not in known and isinstance(alias, Alias) and target in aliases:
                raise ConfigError(
                    f"alias {alias.name!r} means {target!r}, which is an alias: name a decode module of "
                    f"{', '.join(modules)}"
                )
            if target not in known:
                kind = "no decode module or alias" if isinstance(alias, ByRules) else "no decode module"
                raise ConfigError(f"alias {alias.name!r} means {target!r}, which is {kind} of {', '.join(known)}")


def find_user(aliases: Mapping[str, AnyAlias], module: str) -> str | None:
    """Return an alias that means `module`; None when none does."""
    return next((alias.name for alias in aliases.values() if module in alias.targets), None)


def _of_modules(aliases: Mapping[str, AnyAlias]) -> list[str]:
    return [alias.name for alias in aliases.values() if isinstance(alias, Alias)]


def as_table(aliases: Mapping[str, AnyAlias]) -> dict[str, Any]:
    """Return the table that `read_aliases` reads."""
    return {alias.name: _meaning(alias) for alias in aliases.values()}


def describe_alias(alias: AnyAlias, aliases: Mapping[str, AnyAlias]) -> dict[str, Any]:
    """Return what a list of models says of an alias beside its name; `root` is the first module that it may mean."""
    first = alias.targets[0]
    root = aliases[first].targets[0] if first in aliases else first
    told = dict(alias.weights) if isinstance(alias, Alias) else list(alias.targets)
    return {"root": root, "alias_of": told}


def _meaning(alias: AnyAlias) -> Any:
    if isinstance(alias, ByRules):
        return alias.as_table()
    return next(iter(alias.weights)) if len(alias.weights) == 1 else dict(alias.weights)
