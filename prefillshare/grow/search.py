"""How a task finds its units: select, retrain with splits, expand, prune.

    select    gates over all units that there are, l1: those that end at 0 are out         (eq. 3)
    retrain   the chosen units move, held where they were; one that went further
              than `max_drift` becomes a copy of the new task, the others go back          (eq. 4 and 6)
    expand    while the held-out loss is above `tau`: new units, group lasso               (eq. 5)
    prune     new units that the held-out loss does not need are removed

Earlier units are read and never written: what a task changes is a copy. Departures from the paper:
- Gates start from those of the earlier task on which a few new units help most, where that is better than none.
- Units are compared at unit length, so that one `max_drift` holds for all matrices.
- What holds a unit is the distance from where it was, not its square. Adam gives every unit steps of the same size,
  and the square takes away a part of the way only, so that all units would drift about equally far, whether the task
  needs that or not. The distance takes away the same length at each step: what the loss does not pull all the time
  stays.
- After all parts but the selection the best state by held-out loss is kept. Copies learn on with the units that are
  added, not in a part of their own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prefillshare.config.growing import GrowTask
from prefillshare.grow.family import Family, GrownTask, Use
from prefillshare.grow.fit import Data, Moving, Shrink, fit, hold_rows_near, shrink_rows_to_zero, shrink_to_zero
from prefillshare.grow.units import UnitLinear, Units, new_units, no_units, normalise, scale
from prefillshare.training.progress import Reporter

TRIAL_STEPS = 16
"""Steps after which starts are compared."""
TRIAL_UNITS = 4
"""Units per matrix that learn in these steps."""
PRUNED_PARTS = (0.5, 0.35, 0.25, 0.15, 0.1, 0.05)
ADDED = -1
"""The parent of a unit that is no copy."""
_LayerState = tuple[Units, Tensor, Tensor]
"""Own units, their parents, and the gates of the shared ones."""


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
        self._generator = torch.Generator().manual_seed(task.seed)
        nothing = torch.zeros(0, dtype=torch.int64)
        self._numbers = dict.fromkeys(layers, nothing)
        """Number in the pool of each shared unit, by layer."""
        self._parents = dict.fromkeys(layers, nothing)
        """Number in the pool of what each own unit is a copy of."""
        self._losses: dict[str, float] = {}

    def run(self) -> Found:
        """Find the task's units.

        Effects: the layers end with them.
        """
        self._losses["base"] = self._measure()
        if self._family.tasks:
            self._select()
            if any(map(len, self._numbers.values())):
                self._retrain()
        self._expand()
        self._prune()
        return Found(uses={name: self._use(name) for name in self._layers}, losses=self._losses)

    def _select(self) -> None:
        self._start_from_nearest()
        gates = self._gates(shrink_to_zero(self._growth.gate_l1))
        # The last state, not the best: the start is dense, and to become sparse may cost a little.
        self._losses["select"] = self._fit("select", [gates], self._growth.select_epochs, keeps_best=False)
        for name, layer in self._layers.items():
            self._numbers[name] = layer.gate_values().nonzero().flatten()
            chosen = self._numbers[name]
            layer.share(self._family.units(name).take(chosen), layer.gate_values()[chosen])
        self._report.say(f"{self._task.name}: takes {sum(map(len, self._numbers.values()))} units of earlier tasks")

    def _start_from_nearest(self) -> None:
        """Begin with the gates of the earlier task on which a few new units bring the loss down most, or with none."""
        starts = [None, *self._family.tasks]
        losses = [self._try(start) for start in starts]
        nearest = starts[losses.index(min(losses))]
        self._share_all(nearest)
        self._report.say(
            f"{self._task.name}: starts from {nearest.name if nearest else 'no task'} (held-out loss {min(losses):.4f} "
            f"after a trial, {losses[0]:.4f} from no task)"
        )

    def _try(self, start: GrownTask | None) -> float:
        """What a short round of adding comes to on an earlier task.

        Its loss as it stands would say little: a module that knows all that is needed, and answers in another form,
        is further off than one that knows nothing.
        """
        self._share_all(start)
        generator = torch.Generator().manual_seed(self._task.seed)
        for layer in self._layers.values():
            layer.own(new_units(TRIAL_UNITS, layer.base.in_features, layer.base.out_features, generator))
        name = f"trial from {start.name if start else 'no task'}"
        epochs = min(1.0, TRIAL_STEPS / len(self._data.training))
        loss = self._fit(name, [*self._own(), self._gates()], epochs, keeps_best=False)
        for layer in self._layers.values():
            layer.own(no_units(layer.base.in_features, layer.base.out_features))
        return loss

    def _share_all(self, start: GrownTask | None) -> None:
        for name, layer in self._layers.items():
            layer.share(self._family.units(name), self._family.gates_of(start, name))

    def _retrain(self) -> None:
        """Let the chosen units move, and keep as copies those that went far."""
        before = {name: (layer.shared_units(), layer.gate_values()) for name, layer in self._layers.items()}
        for name, layer in self._layers.items():
            layer.own(scale(*before[name]))
            layer.share(before[name][0].take(torch.zeros(0, dtype=torch.int64)), torch.zeros(0))
        vectors = [vector for layer in self._layers.values() for vector in (layer.own_in, layer.own_out)]
        held = hold_rows_near([vector.detach().clone() for vector in vectors], vectors, self._growth.drift_lasso)
        moving = Moving(parameters=vectors, learning_rate=self._growth.retrain_rate, shrink=held)
        self._losses["retrain"] = self._fit("retrain", [moving], self._growth.retrain_epochs)
        drifts = [self._split(name, layer, *before[name]) for name, layer in self._layers.items()]
        num_split = sum(map(len, self._parents.values()))
        drift = torch.cat(drifts)
        self._report.say(
            f"{self._task.name}: {int((drift > 0).sum())} of them moved, at most {float(drift.max()):.2f} of a unit's "
            f"length; {num_split} went further than {self._growth.max_drift:g} and are copies now"
        )
        self._losses["split"] = self._measure()

    def _split(self, name: str, layer: UnitLinear, units: Units, gates: Tensor) -> Tensor:
        before, after = scale(units, gates).vectors(), layer.own_units().vectors()
        moved, sizes = normalise(layer.own_units())
        signs = gates.sign()
        drift = (moved.vectors() - scale(units, signs).vectors()).norm(dim=1)
        # Rounding is no drift.
        drift[(before == after).all(dim=1)] = 0.0
        has_left = drift > self._growth.max_drift
        self._parents[name], self._numbers[name] = self._numbers[name][has_left], self._numbers[name][~has_left]
        layer.own(layer.own_units().take(has_left))
        # What stays is bit for bit what it was; only how strongly it counts is this task's.
        layer.share(units.take(~has_left), (sizes * signs)[~has_left])
        return drift

    def _expand(self) -> None:
        loss = self._measure()
        for number in range(1, self._growth.max_rounds + 1):
            if loss <= self._growth.tau:
                break
            before = self._state()
            self._add()
            reached = self._settle(f"round {number}")
            if reached > loss * (1 - self._growth.min_gain):
                self._return_to(before)
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
            added = new_units(self._growth.units, layer.base.in_features, layer.base.out_features, self._generator)
            layer.own(layer.own_units().join(added))
            self._parents[name] = torch.cat((self._parents[name], torch.full((len(added),), ADDED)))

    def _settle(self, name: str) -> float:
        """Train what is the task's own, and the gates of what it shares; drop own units that came to nothing."""
        moving = [*self._own(shrink_rows_to_zero(self._growth.group_lasso)), self._gates()]
        self._losses[name] = self._fit(name, moving, self._task.optimizer.epochs)
        self._keep_own(lambda units: units.outgoing.norm(dim=1) > 0)
        return self._losses[name]

    def _prune(self) -> None:
        """Remove the weakest own units, as many as the held-out loss does not need."""
        before = self._state()
        strengths = torch.cat([normalise(layer.own_units())[1] for layer in self._layers.values()])
        limit = self._measure() * (1 + self._growth.prune_tolerance)
        for part in PRUNED_PARTS if len(strengths) else ():
            least = float(strengths.quantile(part))
            self._keep_own(lambda units: normalise(units)[1] >= least)  # noqa: B023 - used before the next turn
            if self._measure() <= limit:
                break
            self._return_to(before)
        self._losses["prune"] = self._measure()

    def _state(self) -> dict[str, _LayerState]:
        """What can change of each layer from now on."""
        return {
            name: (layer.own_units(), self._parents[name], layer.gate_values()) for name, layer in self._layers.items()
        }

    def _return_to(self, state: Mapping[str, _LayerState]) -> None:
        for name, (units, parents, gates) in state.items():
            self._layers[name].own(units)
            self._layers[name].share(self._layers[name].shared_units(), gates)
            self._parents[name] = parents

    def _keep_own(self, is_kept: Callable[[Units], Tensor]) -> None:
        for name, layer in self._layers.items():
            kept = is_kept(layer.own_units())
            layer.own(layer.own_units().take(kept))
            self._parents[name] = self._parents[name][kept]

    def _use(self, name: str) -> Use:
        layer, gates = self._layers[name], self._layers[name].gate_values()
        new, new_gates = normalise(layer.own_units())
        counts = gates != 0
        return Use(
            reused=self._numbers[name][counts],
            reused_gates=gates[counts],
            new=new,
            new_gates=new_gates,
            parents=self._parents[name],
        )

    def _own(self, shrink: Shrink | None = None) -> list[Moving]:
        incoming = [layer.own_in for layer in self._layers.values()]
        outgoing = [layer.own_out for layer in self._layers.values()]
        return [
            Moving(parameters=incoming, learning_rate=self._rate),
            Moving(parameters=outgoing, learning_rate=self._rate, shrink=shrink),
        ]

    def _gates(self, shrink: Shrink | None = None) -> Moving:
        gates = [layer.gates for layer in self._layers.values()]
        return Moving(parameters=gates, learning_rate=self._growth.gate_rate, shrink=shrink)

    def _fit(self, name: str, moving: list[Moving], epochs: float, *, keeps_best: bool = True) -> float:
        model, data, task = self._model, self._data, self._task
        return fit(name, model, moving, data, task, epochs=epochs, report=self._report, keeps_best=keeps_best)

    def _measure(self) -> float:
        return self._data.held_out.mean_loss(self._model)
