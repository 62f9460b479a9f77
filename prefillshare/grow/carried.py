"""What a task has in each matrix while it is looked for: units of its own, and units of the pool with gates."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prefillshare.grow.family import Use
from prefillshare.grow.fit import Moving, Shrink
from prefillshare.grow.units import UnitLinear, Units, normalise

ADDED = -1
"""The parent of a unit that is no copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """One matrix at some moment.

    Shapes: n units of its own, r of the pool.
    """

    own: Units
    """Units of the task's own, their strength in their length."""
    parents: Tensor
    """Number in the pool of what each is a copy of [n], int64; `ADDED` for one that is no copy."""
    numbers: Tensor
    """Numbers of the shared units in the matrix's pool [r], int64."""
    shared: Units
    """These units, as they stand in the pool."""
    gates: Tensor
    """How strongly each counts [r]."""


class Carried:
    """The units that the layers of a decode module carry, and where they come from."""

    def __init__(self, layers: Mapping[str, UnitLinear]) -> None:
        self.layers = layers
        nothing = torch.zeros(0, dtype=torch.int64)
        self.numbers = dict.fromkeys(layers, nothing)
        """Number in the pool of each shared unit, by matrix."""
        self.parents = dict.fromkeys(layers, nothing)
        """Number in the pool of what each own unit is a copy of."""
        # As they stand in the pool: never written, so that states can hold the same tensors.
        self._shared = {name: layer.shared_units() for name, layer in layers.items()}

    def own(self, name: str, units: Units, parents: Tensor) -> None:
        """Take these as the own units of a matrix."""
        self.layers[name].own(units)
        self.parents[name] = parents

    def add(self, name: str, units: Units) -> None:
        """Put new units behind those of a matrix."""
        parents = torch.full((len(units),), ADDED)
        self.own(name, self.layers[name].own_units().join(units), torch.cat((self.parents[name], parents)))

    def share(self, name: str, numbers: Tensor, units: Units, gates: Tensor) -> None:
        """Take these units of the pool as the shared ones of a matrix."""
        self.layers[name].share(units, gates)
        self.numbers[name], self._shared[name] = numbers, units

    def keep(self, name: str, *, own: Tensor | None = None, shared: Tensor | None = None) -> None:
        """Let go of all units of a matrix but those of a mask, or of these places; where none is given, of no unit."""
        layer = self.layers[name]
        if own is not None:
            self.own(name, layer.own_units().take(own), self.parents[name][own])
        if shared is not None:
            units, gates = self._shared[name].take(shared), layer.gate_values()[shared]
            self.share(name, self.numbers[name][shared], units, gates)

    def drop_zeros(self) -> None:
        """Let go of own units that came to nothing."""
        for name, layer in self.layers.items():
            self.keep(name, own=layer.own_units().outgoing.norm(dim=1) > 0)

    def state(self) -> dict[str, Held]:
        """What every matrix holds now."""
        return {
            name: Held(
                own=layer.own_units(),
                parents=self.parents[name],
                numbers=self.numbers[name],
                shared=self._shared[name],
                gates=layer.gate_values(),
            )
            for name, layer in self.layers.items()
        }

    def return_to(self, state: Mapping[str, Held]) -> None:
        """Hold again what these matrices held."""
        for name, held in state.items():
            self.own(name, held.own, held.parents)
            self.share(name, held.numbers, held.shared, held.gates)

    def own_moving(self, learning_rate: float, shrink: Shrink | None = None) -> list[Moving]:
        """Own units as parameters that learn; what is given shrinks the outgoing vectors."""
        incoming = [layer.own_in for layer in self.layers.values()]
        outgoing = [layer.own_out for layer in self.layers.values()]
        return [
            Moving(parameters=incoming, learning_rate=learning_rate),
            Moving(parameters=outgoing, learning_rate=learning_rate, shrink=shrink),
        ]

    def gates_moving(self, learning_rate: float, shrink: Shrink | None = None) -> Moving:
        """Gates as parameters that learn."""
        gates = [layer.gates for layer in self.layers.values()]
        return Moving(parameters=gates, learning_rate=learning_rate, shrink=shrink)

    def uses(self) -> dict[str, Use]:
        """What the task takes, as the pool stores it: units at unit length."""
        return {name: self._use(name) for name in self.layers}

    def _use(self, name: str) -> Use:
        layer, gates = self.layers[name], self.layers[name].gate_values()
        new, new_gates = normalise(layer.own_units())
        counts = gates != 0
        return Use(
            reused=self.numbers[name][counts],
            reused_gates=gates[counts],
            new=new,
            new_gates=new_gates,
            parents=self.parents[name],
        )
