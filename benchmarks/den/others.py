"""What DEN is compared with: separate networks (STL), one for all tasks at once (MTL), EWC, progressive networks."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.den.digits import NUM_TASKS, Part

SIZES = (64, 32)
STEPS = 300
RATE = 0.01
EWC_WEIGHT = 300.0
COLUMN = (16, 8)
"""Units of a progressive network's later columns; the first has those of everybody else."""

Scores = Callable[[Tensor, int], Tensor]


def separate(data: Part) -> tuple[Scores, int]:
    """A network per task, each of full size."""
    networks = [_mlp(1) for _ in range(NUM_TASKS)]
    for task, network in enumerate(networks):
        _train(network.parameters(), _loss_of(network, data, task))
    return lambda images, task: networks[task](images)[:, 0], sum(map(_count, networks))


def together(data: Part) -> tuple[Scores, int]:
    """One network with ten outputs that sees all tasks at once."""
    network = _mlp(NUM_TASKS)

    def loss() -> Tensor:
        scores = network(data.images)
        return sum((loss_of(scores[:, task], data.labels(task)) for task in range(NUM_TASKS)), torch.zeros(()))

    _train(network.parameters(), loss)
    return lambda images, task: network(images)[:, task], _count(network)


def elastic(data: Part) -> tuple[Scores, int]:
    """One network, task after task, whose weights are held the more, the more an earlier task needs them."""
    network = _mlp(NUM_TASKS)
    body = [parameter for layer in list(network)[:-1] for parameter in layer.parameters()]
    anchors: list[tuple[list[Tensor], list[Tensor]]] = []
    for task in range(NUM_TASKS):
        plain = _loss_of(network, data, task, column=task)

        def loss(plain: Callable[[], Tensor] = plain) -> Tensor:
            held = [
                (fisher * (parameter - was) ** 2).sum()
                for fishers, values in anchors
                for fisher, parameter, was in zip(fishers, body, values, strict=True)
            ]
            return plain() + EWC_WEIGHT * sum(held, torch.zeros(()))

        _train(network.parameters(), loss)
        anchors.append((_fisher(network, body, data, task), [parameter.detach().clone() for parameter in body]))
    return lambda images, task: network(images)[:, task], _count(network)


def progressive(data: Part) -> tuple[Scores, int]:
    """A column per task, which reads the first hidden layers of all earlier, frozen columns as well."""
    columns: list[nn.ModuleList] = []
    for task in range(NUM_TASKS):
        first, second = SIZES if task == 0 else COLUMN
        num_read = first + sum(column[0].out_features for column in columns)
        column = nn.ModuleList(
            [nn.Linear(data.images.shape[1], first), nn.Linear(num_read, second), nn.Linear(second, 1)]
        )
        columns.append(column)

        def loss(columns: Sequence[nn.ModuleList] = tuple(columns), task: int = task) -> Tensor:
            return loss_of(_column_scores(columns, data.images), data.labels(task))

        _train(column.parameters(), loss)
        column.requires_grad_(False)
    return lambda images, task: _column_scores(columns[: task + 1], images), sum(map(_count, columns))


def loss_of(scores: Tensor, labels: Tensor) -> Tensor:
    """One digit stands against nine: its images count as much as all others."""
    return F.binary_cross_entropy_with_logits(scores, labels, pos_weight=(1 - labels).sum() / labels.sum())


def _column_scores(columns: Sequence[nn.ModuleList], images: Tensor) -> Tensor:
    read = torch.cat([F.relu(column[0](images)) for column in columns], dim=1)
    last = columns[-1]
    scores: Tensor = last[2](F.relu(last[1](read)))[:, 0]
    return scores


def _fisher(network: nn.Module, body: Sequence[nn.Parameter], data: Part, task: int) -> list[Tensor]:
    """Diagonal of the Fisher information of the body's weights, from gradients of small batches."""
    totals = [torch.zeros_like(parameter) for parameter in body]
    batches = list(zip(data.images.split(20), data.labels(task).split(20), strict=True))
    for images, labels in batches:
        network.zero_grad()
        F.binary_cross_entropy_with_logits(network(images)[:, task], labels).backward()
        for total, parameter in zip(totals, body, strict=True):
            if parameter.grad is not None:
                total += parameter.grad**2 * len(labels) / len(batches)
    return totals


def _mlp(num_outputs: int) -> nn.Sequential:
    first, second = SIZES
    return nn.Sequential(
        nn.Linear(64, first), nn.ReLU(), nn.Linear(first, second), nn.ReLU(), nn.Linear(second, num_outputs)
    )


def _loss_of(network: nn.Module, data: Part, task: int, column: int = 0) -> Callable[[], Tensor]:
    return lambda: loss_of(network(data.images)[:, column], data.labels(task))


def _train(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor]) -> None:
    optimizer = torch.optim.Adam(parameters, lr=RATE)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
