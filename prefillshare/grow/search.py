"""How a task finds its units: select, retrain with splits, settle and expand, prune.

    select    gates over all units that there are, l1: those that end at 0 are out, and
              of the others the strongest stay                                           (eq. 3)
    retrain   the chosen units move, held where they were; one that went further
              than `max_drift` becomes a copy of the new task, the others go back          (eq. 4 and 6)
    expand    while the held-out loss is above `tau`: new units, group lasso               (eq. 5)
    prune     units that the held-out loss does not need are removed (`prune`)

Earlier units are read and never written: what a task changes is a copy. Departures from the paper:
- The first new units are there from the beginning, and learn in every part: passes in which the task could only use
  what others left would be lost for what they cannot say. They go again where the chosen units do without them.
- Gates start from those of the earlier task on which the new units help most, where that is better than none.
- Units are compared at unit length, so that one `max_drift` holds for all matrices.
- What holds a unit is the distance from where it was, not its square. Adam gives every unit steps of the same size,
  and the square takes away a part of the way only, so that all units would drift about equally far, whether the task
  needs that or not. The distance takes away the same length at each step: what the loss does not pull all the time
  stays.
- What is superfluous is found by principal directions of what was added, each a unit, and not by the lasso alone: units
  that were trained together overlap, and those that the lasso leaves all carry a part of everything. What is left makes
  good for more that goes.
- After all parts but the selection the best state by held-out loss is kept. Copies learn on with the units that are
  added, not in a part of their own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from prefillshare.config.growing import GrowTask
from prefillshare.grow.carried import ADDED, Carried, Held
from prefillshare.grow.family import Family, GrownTask, Use
from prefillshare.grow.fit import (
    Data,
    Moving,
    fit,
    fit_while_it_gains,
    hold_rows_near,
    is_gain,
    shrink_rows_to_zero,
    shrink_to_zero,
)
from prefillshare.grow.prune import Pruning
from prefillshare.grow.units import UnitLinear, Units, new_units, normalise, scale
from prefillshare.training.progress import Reporter

TRIAL_STEPS = 32
"""Steps after which starts are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search ended with."""

    uses: dict[str, Use]
    """What the task takes of each matrix."""
    losses: dict[str, float]
    """Held-out loss by the step after which it was measured."""


class Search:
    """One task's search, on a decode module whose layers carry units."""

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, UnitLinear],
        family: Family,
        data: Data,
        task: GrowTask,
        report: Reporter,
    ) -> None:
        self._model, self._layers, self._family = model, layers, family
        self._data, self._task, self._report = data, task, report
        self._growth, self._rate = task.growth, task.optimizer.learning_rate
        self._lasso = shrink_rows_to_zero(task.growth.group_lasso)
        self._l1 = shrink_to_zero(task.growth.gate_l1)
        self._generator = torch.Generator().manual_seed(task.seed)
        self._carried = Carried(layers)
        self._losses: dict[str, float] = {}

    def run(self) -> Found:
        """Find the task's units.

        Effects: the layers end with them.
        """
        self._losses["base"] = self._measure()
        self._add()
        if self._family.tasks:
            self._select()
            if any(map(len, self._carried.numbers.values())):
                self._retrain()
        self._expand()
        self._losses["prune"] = Pruning(self._model, self._carried, self._data, self._task, self._report).run()
        return Found(uses=self._carried.uses(), losses=self._losses)

    def _select(self) -> None:
        self._start_from_nearest()
        gates = self._carried.gates_moving(self._growth.gate_rate, self._l1)
        moving = [*self._carried.own_moving(self._rate, self._lasso), gates]
        # The last state, not the best: the start is dense, and to become sparse may cost a little.
        self._losses["select"] = self._fit("select", moving, self._growth.select_epochs, keeps_best=False)
        for name, layer in self._layers.items():
            self._carried.keep(name, shared=strongest(layer.gate_values(), self._growth.max_reused))
        num_chosen = sum(map(len, self._carried.numbers.values()))
        self._report.say(f"{self._task.name}: takes {num_chosen} units of earlier tasks")

    def _start_from_nearest(self) -> None:
        """Begin as a trial ended: on the earlier task whose gates bring the loss down most, or on none."""
        begun = {name: layer.own_units() for name, layer in self._layers.items()}
        starts = [None, *self._family.tasks]
        trials = [self._try(start, begun) for start in starts]
        from_none, losses = trials[0][0], [loss for loss, _ in trials]
        best = losses.index(min(losses))
        if not is_gain(from_none, losses[best], self._growth.min_gain):
            best = 0
        start, (loss, state) = starts[best], trials[best]
        self._carried.return_to(state)
        beside = (
            f"{from_none:.4f} from no task" if start else f"{min(losses[1:]):.4f} at best from an earlier one: no gain"
        )
        self._report.say(
            f"{self._task.name}: starts from {start.name if start else 'no task'} (held-out loss {loss:.4f} after a "
            f"trial, {beside})"
        )

    def _try(self, start: GrownTask | None, begun: Mapping[str, Units]) -> tuple[float, dict[str, Held]]:
        """What the first steps come to on an earlier task: loss and state.

        Its loss as it stands would say little: a module that knows all that is needed, and answers in another form,
        is further off than one that knows nothing.
        """
        for name in self._layers:
            units = self._family.units(name)
            self._carried.own(name, begun[name], self._carried.parents[name])
            self._carried.share(name, torch.arange(len(units)), units, self._family.gates_of(start, name))
        name = f"trial from {start.name if start else 'no task'}"
        steps_per_pass = ceil(len(self._data.training) / self._task.batch.accumulation)
        epochs = min(TRIAL_STEPS / steps_per_pass, self._task.optimizer.epochs)
        moving = [*self._carried.own_moving(self._rate), self._carried.gates_moving(self._growth.gate_rate)]
        return self._fit(name, moving, epochs, keeps_best=False), self._carried.state()

    def _retrain(self) -> None:
        """Let the chosen units move, and keep as copies those that went far."""
        before = {name: layer.shared_units() for name, layer in self._layers.items()}
        vectors = [vector for layer in self._layers.values() for vector in (layer.shared_in, layer.shared_out)]
        held = hold_rows_near([vector.detach().clone() for vector in vectors], vectors, self._growth.drift_lasso)
        chosen = Moving(parameters=vectors, learning_rate=self._growth.retrain_rate, shrink=held)
        own = self._carried.own_moving(self._rate, self._lasso)
        moving = [chosen, *own, self._carried.gates_moving(self._growth.gate_rate)]
        self._losses["retrain"] = self._fit("retrain", moving, self._growth.retrain_epochs)
        drift = torch.cat([self._split(name, layer, before[name]) for name, layer in self._layers.items()])
        self._report.say(
            f"{self._task.name}: {int((drift > 0).sum())} of them moved, at most {float(drift.max()):.2f} of a unit's "
            f"length; {int((drift > self._growth.max_drift).sum())} went further than {self._growth.max_drift:g} and "
            "are copies now"
        )
        self._losses["split"] = self._measure()

    def _split(self, name: str, layer: UnitLinear, before: Units) -> Tensor:
        """Copies of what left, and everything else as it was, bit for bit; returns how far each went."""
        after, gates = layer.shared_units(), layer.gate_values()
        moved, sizes = normalise(after)
        drift = (moved.vectors() - before.vectors()).norm(dim=1)
        stayed = (before.vectors() == after.vectors()).all(dim=1)
        # Rounding is no drift.
        drift[stayed], sizes[stayed] = 0.0, 1.0
        has_left = drift > self._growth.max_drift
        numbers = self._carried.numbers[name]
        parents = torch.cat((self._carried.parents[name], numbers[has_left]))
        self._carried.own(name, layer.own_units().join(scale(after, gates).take(has_left)), parents)
        # What is put back is of this task only in how strongly it counts.
        self._carried.share(name, numbers[~has_left], before.take(~has_left), (gates * sizes)[~has_left])
        return drift

    def _expand(self) -> None:
        """Settle with the first new units, where the chosen ones do not suffice, and add more."""
        begun = self._carried.state()
        for name in self._layers:
            self._carried.keep(name, own=self._carried.parents[name] != ADDED)
        loss = self._losses["reused"] = self._measure()
        for number in range(1, self._growth.max_rounds + 1):
            if loss <= self._growth.tau:
                break
            before = self._carried.state()
            if number == 1:
                self._carried.return_to(begun)
            else:
                self._add()
            reached = self._settle(f"round {number}")
            if not is_gain(loss, reached, self._growth.min_gain):
                self._carried.return_to(before)
                break
            loss = reached
        self._losses["expand"] = loss
        if loss > self._growth.tau > 0:
            self._report.say(
                f"{self._task.name}: the held-out loss is {loss:.4f} and nothing reached tau = {self._growth.tau:g}; "
                "what was found is kept. Raise tau, or give more units, rounds or data"
            )

    def _add(self) -> None:
        for name, layer in self._layers.items():
            num_in, num_out = layer.base.in_features, layer.base.out_features
            self._carried.add(name, new_units(self._growth.units, num_in, num_out, self._generator))

    def _settle(self, name: str) -> float:
        """Train what is the task's own, and the gates of what it shares; drop own units that came to nothing."""

        def moving(cycle: int) -> list[Moving]:
            # The lasso chooses in the first cycle. What it left learns on without it: near the optimum, where the loss
            # pulls little, it would hold every unit back.
            if cycle > 0:
                self._carried.drop_zeros()
            own = self._carried.own_moving(self._rate, self._lasso if cycle == 0 else None)
            return [*own, self._carried.gates_moving(self._growth.gate_rate)]

        model, data, task = self._model, self._data, self._task
        self._losses[name] = fit_while_it_gains(name, model, moving, data, task, report=self._report)
        self._carried.drop_zeros()
        return self._losses[name]

    def _fit(self, name: str, moving: list[Moving], epochs: float, *, keeps_best: bool = True) -> float:
        model, data, task = self._model, self._data, self._task
        return fit(name, model, moving, data, task, epochs=epochs, report=self._report, keeps_best=keeps_best)

    def _measure(self) -> float:
        return self._data.held_out.mean_loss(self._model)


def strongest(gates: Tensor, most: int) -> Tensor:
    """Numbers of the gates that are furthest from 0 and not 0, in rising order."""
    order = gates.abs().argsort(descending=True, stable=True)[:most]
    return order[gates[order] != 0].sort().values
