"""Which module a name means: the one seam of router and engine.

`Names.find` is a pure function of what a call says. What decides by more than the name, such as rules over the body,
belongs here too: it gets the whole `Asked`.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from prefillshare.naming.alias import Alias


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a call says that may decide which module answers it."""

    name: str
    """What stands in "model"."""
    session: str | None = None
    """Session that the call belongs to; None when it names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All names that a deployment answers to at one moment."""

    base: str
    """Name of the prefill module."""
    modules: Sequence[str]
    """Decode modules."""
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    """Other names of decode modules."""

    def find(self, asked: Asked, draw: Callable[[], float] = random.random) -> str | None:
        """Return the decode module that answers, or the prefill module's name where that is meant; None for nobody.

        `draw` gives a number in [0, 1) for a call without a session.
        """
        name = asked.name
        # SGLang's form of an adapter's name.
        base, _, adapter = name.partition(":")
        module = adapter.strip() if adapter and base.strip() == self.base else name
        if module in self.modules:
            return module
        if (alias := self.aliases.get(module)) is not None:
            return alias.draw(asked.session, draw)
        return self.base if name == self.base else None

    def only(self, allows: Callable[[str], bool]) -> "Names":
        """Return the names that whoever may ask only these modules knows: an alias when it means no other one."""
        return Names(
            base=self.base,
            modules=[name for name in self.modules if allows(name)],
            aliases={name: alias for name, alias in self.aliases.items() if all(map(allows, alias.weights))},
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
