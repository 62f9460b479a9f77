"""Which module a name means: the one seam of router and engine.

`Names.find` is a pure function of what a call says.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from prefillshare.naming.alias import Alias, AnyAlias
from prefillshare.naming.asked import Asked
from prefillshare.naming.rules import ByRules


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All names that a deployment answers to at one moment."""

    base: str
    """Name of the prefill module."""
    modules: Sequence[str]
    """Decode modules."""
    aliases: Mapping[str, AnyAlias] = field(default_factory=dict)
    """Other names of decode modules."""

    def find(self, asked: Asked, draw: Callable[[], float] = random.random) -> str | None:
        """Return the decode module that answers, or the prefill module's name where that is meant; None for nobody.

        `draw` gives a number in [0, 1) for a call without a session.
        """
        name = asked.name
        module = self._of_adapter(name)
        if module in self.modules:
            return module
        if (alias := self.aliases.get(module)) is not None:
            # Rules may mean an alias; an alias by weight means modules only, so this ends.
            return self.find(replace(asked, name=alias.find(asked, draw)), draw)
        return self.base if name == self.base else None

    def find_undecided(self, asked: Asked) -> str | None:
        """Return the alias that is meant, if its classifier has still to see the prompt."""
        alias = self.aliases.get(self._of_adapter(asked.name))
        return alias.name if isinstance(alias, ByRules) and alias.is_undecided(asked) else None

    def _of_adapter(self, name: str) -> str:
        """Return the name without the prefill module's before it: SGLang's form of an adapter's name."""
        base, _, adapter = name.partition(":")
        return adapter.strip() if adapter and base.strip() == self.base else name

    def only(self, allows: Callable[[str], bool]) -> "Names":
        """Return the names that whoever may ask only these modules knows: an alias when it means no other one."""
        by_weight = {name: alias for name, alias in self.aliases.items() if isinstance(alias, Alias)}
        known = {name for name, alias in by_weight.items() if all(map(allows, alias.targets))}
        by_rules = {name: alias for name, alias in self.aliases.items() if name not in by_weight}
        known |= {
            name
            for name, alias in by_rules.items()
            if all(to in known or (to in self.modules and allows(to)) for to in alias.targets)
        }
        return Names(
            base=self.base,
            modules=[name for name in self.modules if allows(name)],
            aliases={name: alias for name, alias in self.aliases.items() if name in known},
        )

    def describe(self) -> str:
        """Return the list of names that a client may choose from, for messages."""
        modules = ", ".join(self.modules) or "no decode module at present"
        return f"{modules}; aliases: {', '.join(self.aliases)}" if self.aliases else modules

    def is_taken(self, name: str) -> str | None:
        """Return what already has `name`; None when it is free."""
        if name == self.base:
            return "the prefill module"
        if name in self.modules:
            return "a decode module"
        return "an alias" if name in self.aliases else None
