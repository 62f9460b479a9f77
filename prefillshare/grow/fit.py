"""One stretch of training: some parameters move, some shrink towards zero or are held, the best state is kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import ceil, cos, pi

import torch
from torch import Tensor, nn

from prefillshare.config.growing import GrowTask
from prefillshare.errors import TrainingError
from prefillshare.grow.material import Material
from prefillshare.training.progress import Reporter

Shrink = Callable[[Tensor, float], None]
"""What is done to a parameter after each step, given the step's learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """Parameters that learn."""

    parameters: Sequence[nn.Parameter]
    """Some of a model's."""
    learning_rate: float
    """Peak."""
    shrink: Shrink | None = None
    """What holds them back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What a stretch learns from."""

    training: Material
    """Batches of the steps."""
    held_out: Material
    """Batches on which states are compared."""


def fit(
    name: str,
    model: nn.Module,
    moving: Sequence[Moving],
    data: Data,
    task: GrowTask,
    *,
    epochs: float,
    report: Reporter,
    keeps_best: bool = True,
    cycle: int = 0,
) -> float:
    """Train, and return the held-out loss of the state that the parameters end in.

    That is the best one of those before the first step and after each epoch, or simply the last. Each cycle has orders
    of the batches of its own.
    Effects: the parameters change, and need no gradient any more.
    Raises: TrainingError when the loss is no number any more.
    """
    # A layer without units has empty parameters, which no loss depends on.
    filled = ([values for values in group.parameters if values.numel()] for group in moving)
    groups = [replace(group, parameters=values) for group, values in zip(moving, filled, strict=True) if values]
    best, best_loss = _snapshot(groups), data.held_out.mean_loss(model)
    num_epochs = ceil(epochs)
    passes_per_step = task.batch.accumulation
    num_steps = max(1, round(epochs * ceil(len(data.training) / passes_per_step)))
    optimizer = _optimizer(groups, task) if groups else None
    step = 0
    for epoch in range(num_epochs if optimizer else 0):
        order = data.training.order(cycle * num_epochs + epoch, task.seed)
        for start in range(0, len(order), passes_per_step):
            if step == num_steps:
                break
            losses = (data.training.loss(model, number) for number in order[start : start + passes_per_step])
            _step(groups, optimizer, losses, _rate(step, num_steps, task), task)
            step += 1
        loss = data.held_out.mean_loss(model)
        report.say(f"{task.name}: {name}, epoch {epoch + 1} of {num_epochs}, held-out loss {loss:.4f}")
        if loss < best_loss or not keeps_best:
            best, best_loss = _snapshot(groups), loss
    _restore(groups, best)
    return best_loss


def fit_while_it_gains(
    name: str,
    model: nn.Module,
    moving: Callable[[int], Sequence[Moving]],
    data: Data,
    task: GrowTask,
    *,
    report: Reporter,
) -> float:
    """Cycles of the task's passes, each with the whole schedule of rates: another one as long as the last took
    `min_gain` off the held-out loss, which is still above `tau`, up to `max_cycles`; returns the loss.

    So one setting serves a task that a few passes teach and one that learns on for long. `moving` says what learns in a
    cycle; cycles are counted from 0.
    Effects: as `fit`.
    """
    growth, loss = task.growth, data.held_out.mean_loss(model)
    for cycle in range(growth.max_cycles):
        title, epochs, before = f"{name}, cycle {cycle + 1}", task.optimizer.epochs, loss
        loss = fit(title, model, moving(cycle), data, task, epochs=epochs, report=report, cycle=cycle)
        if loss <= growth.tau or not is_gain(before, loss, growth.min_gain):
            break
    return loss


def is_gain(before: float, after: float, min_gain: float) -> bool:
    """Whether a loss fell by at least that part of itself."""
    return after <= before * (1 - min_gain)


def shrink_to_zero(part: float) -> Shrink:
    """Soft threshold: l1, after which zeros are exact."""

    def shrink(values: Tensor, rate: float) -> None:
        values.copy_(values.sign() * (values.abs() - rate * part).clamp_min(0))

    return shrink


def shrink_rows_to_zero(part: float) -> Shrink:
    """The same for whole rows: group lasso. A step of Adam moves a row by about the root of its length."""

    def shrink(rows: Tensor, rate: float) -> None:
        sizes = rows.norm(dim=1, keepdim=True)
        rows.mul_((1 - rate * part * rows.shape[1] ** 0.5 / sizes.clamp_min(1e-20)).clamp_min(0))

    return shrink


def hold_rows_near(origin: Sequence[Tensor], parameters: Sequence[nn.Parameter], part: float) -> Shrink:
    """Group lasso on how far each row is from where it was: one that the loss does not pull away all the time is there
    again, exactly. (The squared distance would let all go, and Adam, which scales each gradient, equally far.)"""
    origins = {id(parameter): before for parameter, before in zip(parameters, origin, strict=True)}
    shrink_rows = shrink_rows_to_zero(part)

    def shrink(rows: Tensor, rate: float) -> None:
        before = origins[id(rows)]
        distance = rows - before
        shrink_rows(distance, rate)
        # x + 0 is x: a row whose distance is zero is bit for bit what it was.
        rows.copy_(before + distance)

    return shrink


def _optimizer(groups: Sequence[Moving], task: GrowTask) -> torch.optim.Optimizer:
    for group in groups:
        for parameter in group.parameters:
            parameter.requires_grad_(True)
    settings = task.optimizer
    return torch.optim.AdamW(
        [{"params": list(group.parameters), "lr": group.learning_rate} for group in groups],
        betas=(settings.beta1, settings.beta2),
        weight_decay=settings.weight_decay,
    )


def _rate(step: int, num_steps: int, task: GrowTask) -> float:
    """Part of the peak rate."""
    num_warm = task.optimizer.warmup_ratio * num_steps
    if step < num_warm:
        return (step + 1) / num_warm if num_warm > 1 else 1.0
    progress = (step - num_warm) / max(1.0, num_steps - num_warm)
    return {"cosine": (1 + cos(pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}[task.optimizer.schedule]


def _step(
    groups: Sequence[Moving],
    optimizer: torch.optim.Optimizer | None,
    losses: Iterator[Tensor],
    part: float,
    task: GrowTask,
) -> None:
    assert optimizer is not None
    optimizer.zero_grad()
    for loss in losses:
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss of {task.name} is {float(loss)}: lower learning_rate, and run it again")
        (loss / task.batch.accumulation).backward()
    torch.nn.utils.clip_grad_norm_([p for group in groups for p in group.parameters], task.optimizer.clip_norm)
    for group, settings in zip(groups, optimizer.param_groups, strict=True):
        settings["lr"] = group.learning_rate * part
    optimizer.step()
    _shrink(groups, part)


@torch.no_grad()
def _shrink(groups: Sequence[Moving], part: float) -> None:
    for group in groups:
        for parameter in group.parameters:
            if group.shrink is not None and parameter.numel():
                group.shrink(parameter, group.learning_rate * part)


def _snapshot(groups: Sequence[Moving]) -> list[list[Tensor]]:
    return [[parameter.detach().clone() for parameter in group.parameters] for group in groups]


@torch.no_grad()
def _restore(groups: Sequence[Moving], state: list[list[Tensor]]) -> None:
    for group, values in zip(groups, state, strict=True):
        for parameter, value in zip(group.parameters, values, strict=True):
            parameter.copy_(value)
            parameter.requires_grad_(False)
            parameter.grad = None
