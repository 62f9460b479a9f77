"""Which units of a task can go, and how what is left makes good for them.

    turn      the units that were added are written as principal directions of what they put
              out over the task's inputs: few of them carry nearly all of it
    rank      a unit is worth its part of what its matrix puts out, times the held-out loss that
              comes back without the units of that matrix, for each number that it takes
    remove    the weakest, as many as the held-out loss does not need
    repair    a further part goes, and the others learn on for some passes; it stays away where
              that makes good for it, and comes back where it does not

The size of a unit alone says little: one that answers to inputs which hardly occur may be large, and a matrix whose
output the loss hardly notices may have large units.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefillshare.config.growing import GrowTask
from prefillshare.grow.carried import ADDED, Carried
from prefillshare.grow.fit import Data, fit
from prefillshare.grow.material import Material
from prefillshare.grow.units import UnitLinear, turn_to_axes
from prefillshare.training.progress import Reporter

TRIALS = 5
"""Bisections of how much can go."""
REPAIRED_PART = 0.3
"""Part of what is left that goes before each repair."""
LEAST_NEED = 1e-4
"""Need of a matrix without whose units the loss is no worse, as a part of the largest one: so that its units still have
an order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """How the units of one matrix answer to the task's inputs: s_u = a_u . x.

    Shapes: n own units, r shared ones.
    """

    own: Tensor
    """Mean of s_u s_v [n, n], float64."""
    shared: Tensor
    """Mean of s_u^2 [r], float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worth:
    """What the units of one matrix are worth for each number that they take.

    Shapes: n own units, r shared ones.
    """

    own: Tensor
    """[n], float64."""
    shared: Tensor
    """[r], float64."""
    size: int
    """Numbers of a unit. A shared one takes none of the family's file, but as many of the adapter."""


class Pruning:
    """The last part of a task's search."""

    def __init__(self, model: nn.Module, carried: Carried, data: Data, task: GrowTask, report: Reporter) -> None:
        self._model, self._carried, self._data, self._task, self._report = model, carried, data, task, report
        self._growth, self._needs = task.growth, dict[str, float]()

    def run(self) -> float:
        """Remove what the task does not need, and return the held-out loss.

        Effects: the layers carry what is left.
        """
        loss = self._measure()
        if not self._growth.prune_tolerance:
            return loss
        limit = loss * (1 + self._growth.prune_tolerance)
        self._needs = matrix_needs(self._carried, self._data.held_out, self._model)
        self._remove_up_to(limit)
        for number in range(1, self._growth.max_repairs + 1):
            if not self._num_units() or not self._repair(number, limit):
                break
        return self._measure()

    def _remove_up_to(self, limit: float) -> None:
        """Remove the weakest units, own and shared, as many as go while the held-out loss is not above the limit."""
        worths = self._rank()
        before, num_before = self._carried.state(), self._num_units()
        kept, most = 0.0, 1.0
        for _ in range(TRIALS if num_before else 0):
            part = (kept + most) / 2
            remove_part(self._carried, worths, part)
            kept, most = (part, most) if self._measure() <= limit else (kept, part)
            self._carried.return_to(before)
        remove_part(self._carried, worths, kept)
        self._report.say(
            f"{self._task.name}: {num_before - self._num_units()} of {num_before} units are not needed; held-out loss "
            f"{self._measure():.4f}"
        )

    def _repair(self, number: int, limit: float) -> bool:
        """Remove more, and let what is left learn on; take that back where it does not make good for it."""
        before, num_before = self._carried.state(), self._num_units()
        remove_part(self._carried, self._rank(), REPAIRED_PART)
        own = self._carried.own_moving(self._growth.retrain_rate)
        moving = [*own, self._carried.gates_moving(self._growth.gate_rate)]
        name, epochs = f"repair {number}", self._growth.repair_epochs
        loss = fit(name, self._model, moving, self._data, self._task, epochs=epochs, report=self._report, cycle=number)
        num_left, is_good = self._num_units(), loss <= limit
        if not is_good:
            self._carried.return_to(before)
        self._report.say(
            f"{self._task.name}: with {num_left} of {num_before} units, held-out loss {loss:.4f}"
            + ("" if is_good else f", above {limit:.4f}: the others are needed")
        )
        return is_good

    def _rank(self) -> dict[str, Worth]:
        """What each unit is worth; those that were added are principal directions from now on."""
        moments = unit_moments(self._carried.layers, self._data.training, self._model)
        return {name: rank_matrix(self._carried, name, moments[name], self._needs[name]) for name in moments}

    def _num_units(self) -> int:
        return sum(len(layer.own_in) + len(layer.gates) for layer in self._carried.layers.values())

    def _measure(self) -> float:
        return self._data.held_out.mean_loss(self._model)


def rank_matrix(carried: Carried, name: str, moments: Moments, need: float) -> Worth:
    """What each unit of a matrix is worth, of which the loss needs so much.

    Effects: those that were added are principal directions of their output from now on.
    """
    layer, parents = carried.layers[name], carried.parents[name]
    own, is_added = layer.own_units(), parents == ADDED
    axes, of_axes = turn_to_axes(own.take(is_added), moments.own[is_added][:, is_added])
    copies = own.take(~is_added)
    of_copies = copies.outgoing.double().square().sum(dim=1) * moments.own.diagonal()[~is_added]
    carried.own(name, copies, parents[~is_added])
    carried.add(name, axes)
    strengths = layer.shared_units().outgoing.double().square().sum(dim=1) * layer.gate_values().double().square()
    of_own, of_shared = torch.cat((of_copies, of_axes)), strengths * moments.shared
    size = layer.base.in_features + layer.base.out_features
    scale = need / size / float((of_own.sum() + of_shared.sum()).clamp_min(1e-30))
    return Worth(own=of_own * scale, shared=of_shared * scale, size=size)


def remove_part(carried: Carried, worths: Mapping[str, Worth], part: float) -> None:
    """Let go of the units that are worth least: of at most that part of all numbers.

    Effects: `worths` are those of the units that were carried, and of no others.
    """
    least = least_of_part(worths, part)
    for name, worth in worths.items():
        carried.keep(name, own=worth.own >= least, shared=worth.shared >= least)


def least_of_part(worths: Mapping[str, Worth], part: float) -> float:
    """The worth below which units take, at most, that part of all numbers."""
    values = torch.cat([values for worth in worths.values() for values in (worth.own, worth.shared)])
    sizes = torch.cat([torch.full((len(worth.own) + len(worth.shared),), worth.size) for worth in worths.values()])
    if not len(values):
        return 0.0
    order = values.argsort(stable=True)
    # Entry i is what goes if i is the least one that stays.
    gone = sizes[order].cumsum(0) - sizes[order]
    return float(values[order[int((gone <= part * int(sizes.sum())).sum()) - 1]])


def matrix_needs(carried: Carried, held_out: Material, model: nn.Module) -> dict[str, float]:
    """Held-out loss that comes back where the units of one matrix are gone, for each matrix; above 0."""
    whole = held_out.mean_loss(model)
    needs, none = {}, torch.zeros(0, dtype=torch.int64)
    for name, held in carried.state().items():
        if not len(held.own) + len(held.gates):
            needs[name] = 0.0
            continue
        carried.keep(name, own=none, shared=none)
        needs[name] = held_out.mean_loss(model) - whole
        carried.return_to({name: held})
    least = LEAST_NEED * max(needs.values())
    return {name: max(need, least, 1e-30) for name, need in needs.items()}


@torch.no_grad()
def unit_moments(layers: Mapping[str, UnitLinear], material: Material, model: nn.Module) -> dict[str, Moments]:
    """How the units answer to the inputs that each layer has at the task's queries."""
    own = {name: torch.zeros(2 * (len(layer.own_in),), dtype=torch.float64) for name, layer in layers.items()}
    shared = {name: torch.zeros(len(layer.gates), dtype=torch.float64) for name, layer in layers.items()}
    is_query, num_queries = torch.zeros(0), 0

    def note(name: str, layer: UnitLinear, hidden: Tensor) -> None:
        inputs = hidden[is_query].to(layer.own_in.dtype)
        answers = F.linear(inputs, layer.own_in)
        own[name] += (answers.T @ answers).double().cpu()
        shared[name] += F.linear(inputs, layer.shared_in).square().sum(dim=0).double().cpu()

    hooks = [
        layer.register_forward_pre_hook(lambda layer, args, name=name: note(name, layer, args[0]))
        for name, layer in layers.items()
    ]
    try:
        for number in range(len(material)):
            is_query = material.is_query(number)
            num_queries += int(is_query.sum())
            material.loss(model, number)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Moments(own=own[name] / num_queries, shared=shared[name] / num_queries) for name in layers}
