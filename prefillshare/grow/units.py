"""Rank-1 units on the linear layers of a model: y = W x + sum over units u of g_u b_u (a_u . x), with the gate g_u.

The decode module has a structure of its own over the base's weights: one copy of them in memory, and the base stays as
it is beside it.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NO_INPUT = 1e-6
"""How much a direction counts that no input has, beside the mean one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Units of one matrix.

    Shapes: n units.
    """

    incoming: Tensor
    """The vectors a_u [n, in], float32."""
    outgoing: Tensor
    """The vectors b_u [n, out], float32."""

    def __len__(self) -> int:
        return self.incoming.shape[0]

    def take(self, indices: Tensor) -> "Units":
        """The units with these numbers, or where a mask of all of them is true."""
        return Units(incoming=self.incoming[indices], outgoing=self.outgoing[indices])

    def join(self, others: "Units") -> "Units":
        """These units, then the others."""
        return Units(
            incoming=torch.cat((self.incoming, others.incoming)), outgoing=torch.cat((self.outgoing, others.outgoing))
        )

    def vectors(self) -> Tensor:
        """a_u and b_u as one vector each [n, in + out]."""
        return torch.cat((self.incoming, self.outgoing), dim=1)


def no_units(num_in: int, num_out: int) -> Units:
    """No unit of a matrix of that size."""
    return Units(incoming=torch.zeros(0, num_in), outgoing=torch.zeros(0, num_out))


def new_units(num: int, num_in: int, num_out: int, generator: torch.Generator) -> Units:
    """Units that change nothing yet: a_u of about unit length, b_u zero."""
    incoming = torch.randn(num, num_in, generator=generator) / num_in**0.5
    return Units(incoming=incoming, outgoing=torch.zeros(num, num_out))


def normalise(units: Units) -> tuple[Units, Tensor]:
    """The same sum as units of unit length, and gates that hold their strength.

    A unit of unit length says what it does, a gate how much: so units of several tasks are compared, and a drift has
    one scale in all matrices.
    """
    sizes_in, sizes_out = (vectors.norm(dim=1).clamp_min(1e-20) for vectors in (units.incoming, units.outgoing))
    scaled = Units(incoming=units.incoming / sizes_in[:, None], outgoing=units.outgoing / sizes_out[:, None])
    return scaled, sizes_in * sizes_out


def scale(units: Units, gates: Tensor) -> Units:
    """The same sum without gates: each one multiplied into b_u."""
    return Units(incoming=units.incoming, outgoing=units.outgoing * gates[:, None])


def turn_to_axes(units: Units, moment: Tensor | None = None) -> tuple[Units, Tensor]:
    """As many units or fewer with the same sum: the principal directions of what they put out, the strongest first.

    Units that were trained together overlap, and each carries a part of everything. Of these, the weakest can go with
    the least harm: no other sum of so few units is nearer to the whole in what it puts out, in the mean square.
    Shapes: `moment` is the mean of (a_u . x)(a_v . x) over inputs x [n, n]; without it every direction of x counts
    alike, and these are the singular directions of the sum. Returns the units, and the mean square of what each puts
    out [k], float64.
    """
    if not len(units):
        return units, torch.zeros(0, dtype=torch.float64)
    incoming, num = units.incoming.double(), min(len(units), units.incoming.shape[1], units.outgoing.shape[1])
    alike = incoming @ incoming.T
    if moment is not None:
        # A little of every direction: those that no input has would have no order, nor those that the sum lacks.
        moment = moment + NO_INPUT * moment.trace() / alike.trace().clamp_min(1e-30) * alike
    # With B^T = Q R the sum is Q (R A): what it puts out has the moment Q (R S R^T) Q^T.
    q_out, r_out = torch.linalg.qr(units.outgoing.T.double())
    squares, vectors = torch.linalg.eigh(r_out @ (alike if moment is None else moment) @ r_out.T)
    strongest = vectors.T.flip(0)[:num]
    turned_in, turned_out = strongest @ r_out @ incoming, strongest @ q_out.T
    # Both vectors equally long, so that both learn equally fast.
    roots = turned_in.norm(dim=1, keepdim=True).clamp_min(1e-20).sqrt()
    axes = Units(incoming=(turned_in / roots).float(), outgoing=(turned_out * roots).float())
    return axes, squares.flip(0)[:num].clamp_min(0)


class UnitLinear(nn.Module):
    """A frozen linear layer with units beside it.

    Shared units belong to earlier tasks: of them only the gates can learn. A task's own units learn as a whole, their
    strength is in the length of their vectors.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        nothing = no_units(base.in_features, base.out_features)
        self.share(nothing, torch.zeros(0))
        self.own(nothing)

    def share(self, units: Units, gates: Tensor) -> None:
        """Take these as the shared units."""
        self.shared_in, self.shared_out, self.gates = map(self._frozen, (units.incoming, units.outgoing, gates))

    def own(self, units: Units) -> None:
        """Take these as the task's own units."""
        self.own_in, self.own_out = map(self._frozen, (units.incoming, units.outgoing))

    def shared_units(self) -> Units:
        """A copy of the shared units."""
        return _copy(self.shared_in, self.shared_out)

    def own_units(self) -> Units:
        """A copy of the task's own units as they are now."""
        return _copy(self.own_in, self.own_out)

    def gate_values(self) -> Tensor:
        """A copy of the gates as they are now."""
        return self.gates.detach().cpu().clone()

    def forward(self, hidden: Tensor) -> Tensor:
        out: Tensor = self.base(hidden)
        # Units are float32 whatever the base is: small steps would be lost in bfloat16.
        hidden = hidden.to(self.own_in.dtype)
        if self.gates.shape[0]:
            out = out + ((F.linear(hidden, self.shared_in) * self.gates) @ self.shared_out).to(out.dtype)
        if self.own_in.shape[0]:
            out = out + (F.linear(hidden, self.own_in) @ self.own_out).to(out.dtype)
        return out

    def _frozen(self, values: Tensor) -> nn.Parameter:
        """A parameter that learns nothing until `fit` lets it."""
        return nn.Parameter(values.detach().clone().to(self.base.weight.device), requires_grad=False)


def _copy(incoming: Tensor, outgoing: Tensor) -> Units:
    return Units(incoming=incoming.detach().cpu().clone(), outgoing=outgoing.detach().cpu().clone())


def put_units_beside(base: nn.Module, targets: Iterable[str]) -> tuple[nn.Module, dict[str, UnitLinear]]:
    """A model over the same weights as `base` whose layers of these names can carry units, and these layers by name."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
    model = copy.deepcopy(base, shared)
    wanted = set(targets)
    layers = {}
    for name, linear in _linear_layers(model, wanted):
        layers[name] = UnitLinear(linear)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, layers[name])
    return model, layers


def _linear_layers(model: nn.Module, names: set[str]) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in names and ".layers." in f".{name}":
            yield name, module
