"""A small, faithful DEN: two hidden layers, one output per task (arXiv 1708.01547, equations 2 to 6).

Units have a stamp, the task at which they came; task t reads units with a stamp of at most t. A unit that is split
stays as it was for the tasks before, and its copy takes its place for those from then on (the paper lets later tasks
read both): no task counts it twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.den.digits import Part

FOREVER = 10**6
Penalty = Callable[[], Tensor]
Masks = Sequence[Tensor | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How DEN learns, and what an ablation takes away."""

    sizes: tuple[int, int] = (40, 20)
    """Units of both hidden layers before the first task."""
    steps: int = 150
    """Steps of Adam in each of the parts of a task."""
    rate: float = 0.01
    """Its learning rate."""
    l1: float = 1e-3
    """Mu of equations 2, 3 and 5, as a soft threshold beside each step."""
    group: float = 2e-3
    """Gamma of equation 5."""
    l2: float = 1e-4
    """Mu of equation 4."""
    hold: float = 1.0
    """Lambda of equation 6, which holds the weights of equation 4 as well."""
    tau: float = 0.02
    """Training loss above which units are added."""
    num_added: int = 10
    """k of equation 5: units per layer and task that are tried."""
    max_drift: float = 0.08
    """Sigma of the split."""
    keeps_all_added: bool = False
    """Ablation: constant k, nothing that was added is removed, and every task adds."""
    splits: bool = True
    """Ablation when false."""
    has_stamps: bool = True
    """Ablation when false: every task reads all units."""


class Den:
    """The network, task after task."""

    def __init__(self, num_inputs: int, settings: Settings, seed: int) -> None:
        self._settings, self._generator = settings, torch.Generator().manual_seed(seed)
        first, second = settings.sizes
        self.weights = [self._random(first, num_inputs), self._random(second, first)]
        self.biases = [torch.zeros(first), torch.zeros(second)]
        self.stamps = [torch.zeros(first, dtype=torch.long), torch.zeros(second, dtype=torch.long)]
        self.ends = [torch.full((first,), FOREVER), torch.full((second,), FOREVER)]
        self.tops: list[Tensor] = []
        self.offsets: list[Tensor] = []

    def scores(self, images: Tensor, task: int) -> Tensor:
        """Logits of a task."""
        hidden = images
        for layer in (0, 1):
            hidden = F.relu(hidden @ self.weights[layer].T + self.biases[layer]) * self._is_read(layer, task)
        top = self.tops[task]
        return hidden[:, : len(top)] @ top + self.offsets[task]

    def num_parameters(self) -> int:
        """Weights that are not zero, and biases."""
        tensors = (*self.weights, *self.biases, *self.tops, *self.offsets)
        return sum(int((tensor != 0).sum()) for tensor in tensors)

    def num_stored(self) -> int:
        """Weights of all units, zero or not, and biases."""
        tensors = (*self.weights, *self.biases, *self.tops, *self.offsets)
        return sum(tensor.numel() for tensor in tensors)

    def learn(self, data: Part) -> None:
        """Learn the next task."""
        task = len(self.tops)
        self.tops.append(self._random(1, len(self.biases[1]))[0])
        self.offsets.append(torch.zeros(1))
        if task == 0:
            self._fit(data, task, [None, None], self._settings.l1, biases=[None, None])
            return
        before = [torch.cat((w, b[:, None]), dim=1) for w, b in zip(self.weights, self.biases, strict=True)]
        chosen = self._select(data, task)
        self._retrain(data, task, chosen, before)
        if self._settings.keeps_all_added or self._loss(data, task) > self._settings.tau:
            self._expand(data, task)
        if self._settings.splits:
            self._split(data, task, before)

    def _select(self, data: Part, task: int) -> list[Tensor]:
        """Equation 3: the top alone, sparse; then what its non-zero weights reach, layer by layer downwards."""
        nothing = [torch.zeros_like(weights) for weights in self.weights]
        no_units = [torch.zeros_like(bias) for bias in self.biases]
        self._fit(data, task, nothing, self._settings.l1, biases=no_units, top_l1=self._settings.l1)
        second = (self.tops[task] != 0) & self._is_read(1, task).bool()
        first = (self.weights[1][second] != 0).any(dim=0) & self._is_read(0, task).bool()
        return [first, second]

    def _retrain(self, data: Part, task: int, chosen: list[Tensor], before: list[Tensor]) -> None:
        """Equation 4: only the chosen part learns."""
        first, second = chosen
        masks = [first[:, None].float().expand_as(self.weights[0]), torch.outer(second.float(), first.float())]
        units = [first.float(), second.float()]
        self._fit(data, task, masks, 0.0, biases=units, penalty=lambda: self._held(before) + self._squares())

    def _expand(self, data: Part, task: int) -> None:
        """Equation 5: new units in both layers, group lasso on what enters them; what came to nothing goes."""
        old = [len(bias) for bias in self.biases]
        self._add(task, self._settings.num_added)
        masks = []
        for layer in (0, 1):
            mask = torch.zeros_like(self.weights[layer])
            mask[old[layer] :] = 1
            if layer == 1:
                mask[:, old[0] :] = 1
            masks.append(mask)
        lasso = 0.0 if self._settings.keeps_all_added else self._settings.group
        # An old unit reads new ones, and keeps its bias: that counts in earlier tasks, too.
        units = [(torch.arange(len(bias)) >= num).float() for bias, num in zip(self.biases, old, strict=True)]
        self._fit(data, task, masks, self._settings.l1, biases=units, group=lasso, first_new=old)
        if not self._settings.keeps_all_added:
            self._remove_empty(old)

    def _split(self, data: Part, task: int, before: list[Tensor]) -> None:
        """Units that drifted become copies for this task and those to come; the old ones are put back."""
        num_split = 0
        for layer in (0, 1):
            drifts = (self._since(before, layer) ** 2).sum(dim=1).sqrt()
            for unit in (drifts > self._settings.max_drift).nonzero().flatten().tolist():
                self._copy(layer, unit, before[layer][unit], task)
                num_split += 1
        if num_split:
            units = [(stamps == task).float() for stamps in self.stamps]
            own = [unit[:, None].expand_as(weights) for unit, weights in zip(units, self.weights, strict=True)]
            self._fit(data, task, own, 0.0, biases=units)

    def _since(self, before: Sequence[Tensor], layer: int) -> Tensor:
        """How incoming weights and biases differ from before, of the units and connections that were there."""
        num_units, num_inputs = before[layer].shape[0], before[layer].shape[1] - 1
        now = self.weights[layer][:num_units, :num_inputs], self.biases[layer][:num_units, None]
        return torch.cat(now, dim=1) - before[layer]

    def _copy(self, layer: int, unit: int, was: Tensor, task: int) -> None:
        row, bias = self.weights[layer][unit].clone(), self.biases[layer][unit].clone()
        self.weights[layer][unit, : len(was) - 1], self.biases[layer][unit] = was[:-1], was[-1]
        self.weights[layer] = torch.cat((self.weights[layer], row[None]))
        self.biases[layer] = torch.cat((self.biases[layer], bias[None]))
        self.stamps[layer] = torch.cat((self.stamps[layer], torch.tensor([task])))
        self.ends[layer] = torch.cat((self.ends[layer], torch.tensor([FOREVER])))
        self.ends[layer][unit] = task
        if layer == 0:
            self.weights[1] = torch.cat((self.weights[1], self.weights[1][:, unit : unit + 1]), dim=1)
        else:
            top = F.pad(self.tops[task], (0, len(self.biases[1]) - len(self.tops[task])))
            top[-1], top[unit] = top[unit].clone(), 0.0
            self.tops[task] = top

    def _add(self, task: int, num: int) -> None:
        new_rows = self._random(num, self.weights[0].shape[1])
        self.weights[0] = torch.cat((self.weights[0], new_rows))
        wide = F.pad(self.weights[1], (0, num))
        self.weights[1] = torch.cat((wide, self._random(num, wide.shape[1])))
        for layer in (0, 1):
            self.biases[layer] = F.pad(self.biases[layer], (0, num))
            self.stamps[layer] = F.pad(self.stamps[layer], (0, num), value=task)
            self.ends[layer] = F.pad(self.ends[layer], (0, num), value=FOREVER)
        self.tops[task] = torch.cat((self.tops[task], self._random(1, num)[0]))

    def _remove_empty(self, old: Sequence[int]) -> None:
        for layer in (0, 1):
            is_kept = self.weights[layer].norm(dim=1) > 0
            is_kept[: old[layer]] = True
            for values in (self.weights, self.biases, self.stamps, self.ends):
                values[layer] = values[layer][is_kept]
            if layer == 0:
                self.weights[1] = self.weights[1][:, is_kept]
            else:
                self.tops[-1] = self.tops[-1][is_kept]

    def _fit(
        self,
        data: Part,
        task: int,
        masks: Masks,
        l1: float,
        *,
        biases: Masks,
        top_l1: float = 0.0,
        group: float = 0.0,
        first_new: Sequence[int] = (0, 0),
        penalty: Penalty | None = None,
    ) -> None:
        """Train the masked weights and hidden biases, and the top of the task."""
        learned = [*self.weights, *self.biases, self.tops[task], self.offsets[task]]
        for tensor in learned:
            tensor.requires_grad_(True)
        optimizer = torch.optim.Adam(learned, lr=self._settings.rate)
        for _ in range(self._settings.steps):
            optimizer.zero_grad()
            loss = _loss(self.scores(data.images, task), data.labels(task))
            (loss if penalty is None else loss + penalty()).backward()
            self._mask_gradients(masks, biases)
            optimizer.step()
            self._shrink(masks, task, l1, top_l1, group, first_new)
        for tensor in learned:
            tensor.requires_grad_(False)
            tensor.grad = None

    def _mask_gradients(self, masks: Masks, biases: Masks) -> None:
        for values, mask in zip((*self.weights, *self.biases), (*masks, *biases), strict=True):
            if mask is not None and values.grad is not None:
                values.grad *= mask

    @torch.no_grad()
    def _shrink(
        self, masks: Masks, task: int, l1: float, top_l1: float, group: float, first_new: Sequence[int]
    ) -> None:
        for layer, (weights, mask) in enumerate(zip(self.weights, masks, strict=True)):
            soft = weights.sign() * (weights.abs() - l1).clamp_min(0)
            weights.copy_(soft if mask is None else torch.where(mask > 0, soft, weights))
            if group:
                rows = weights[first_new[layer] :]
                sizes = rows.norm(dim=1, keepdim=True).clamp_min(1e-20)
                rows *= (1 - group * rows.shape[1] ** 0.5 / sizes).clamp_min(0)
        if top_l1:
            self.tops[task].copy_(self.tops[task].sign() * (self.tops[task].abs() - top_l1).clamp_min(0))

    def _held(self, before: Sequence[Tensor]) -> Tensor:
        return self._settings.hold * sum((self._since(before, layer) ** 2).sum() for layer in (0, 1))

    def _squares(self) -> Tensor:
        return self._settings.l2 * sum((weights**2).sum() for weights in self.weights)

    @torch.no_grad()
    def _loss(self, data: Part, task: int) -> float:
        return float(_loss(self.scores(data.images, task), data.labels(task)))

    def _is_read(self, layer: int, task: int) -> Tensor:
        if not self._settings.has_stamps:
            return torch.ones(len(self.biases[layer]))
        return ((self.stamps[layer] <= task) & (self.ends[layer] > task)).float()

    def _random(self, rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=self._generator) * (2 / columns) ** 0.5


def _loss(scores: Tensor, labels: Tensor) -> Tensor:
    """One digit stands against nine: its images count as much as all others."""
    return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=(1 - labels).sum() / labels.sum())
