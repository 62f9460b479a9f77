"""What removing units of a module costs: by their size as they were trained, by the size of the singular directions of
their sum, and as `grow` removes them, by principal directions of what they put out and the need of each matrix.

Run: `python -m benchmarks.grow.axes`, behind `make bench-grow`, whose first module alone it takes. Prints a table.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from benchmarks.grow.__main__ import ALONE, ROOT, Benchmark, Places, folder_of
from benchmarks.grow.tasks import TASKS
from prefillshare.grow.carried import Carried
from prefillshare.grow.family import Family
from prefillshare.grow.fit import Data
from prefillshare.grow.prune import Worth, matrix_needs, rank_matrix, remove_part, unit_moments
from prefillshare.grow.run import make_data
from prefillshare.grow.units import Units, normalise, put_units_beside, turn_to_axes
from prefillshare.training.data.prepare import prepare
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.model import load_base

PARTS = (0.0, 0.4, 0.6, 0.7, 0.8, 0.9)
"""Parts of the parameters that are removed."""
SEED = 1


def main() -> None:
    """Print held-out loss by what is removed."""
    torch.set_num_threads(1)
    places = Places(tiny=ROOT / "models" / "tiny", work=ROOT / ".bench-grow", out=Path())
    bench, task = Benchmark(places, [TASKS[0]], 0, SEED), TASKS[0]
    family = Family(folder_of(places, SEED) / f"alone-{task.name}")
    base = places.tiny / "base"
    settings = bench.settings(task, bench.data(task), ALONE)
    prefill = load_base(base, torch.float32).requires_grad_(False).eval()
    assert family.identity is not None
    model, layers = put_units_beside(prefill, family.identity["targets"])
    prepared = prepare(settings.as_training(family.module(task.name)), load_tokenizer(base))
    data = make_data(prefill, prepared, settings)
    trained = {name: family.sum_of(family.tasks[0], name) for name in layers}
    ways: tuple[Callable[[Carried], dict[str, Worth]], ...] = (
        lambda carried: _by_size(carried, trained),
        lambda carried: _by_size(carried, {name: turn_to_axes(units)[0] for name, units in trained.items()}),
        lambda carried: _by_output(carried, trained, data, model, is_needed=False),
        lambda carried: _by_output(carried, trained, data, model, is_needed=True),
    )
    num = sum(len(units) * (units.incoming.shape[1] + units.outgoing.shape[1]) for units in trained.values())
    print(
        f"| removed of {num:,} parameters | as trained | singular directions | directions of the output "
        "| by the need of each matrix as well |\n|---|---|---|---|---|"
    )
    losses = [_losses(Carried(layers), way, data, model) for way in ways]
    for part, row in zip(PARTS, zip(*losses, strict=True), strict=True):
        print(f"| {part:.0%} | " + " | ".join(f"{loss:.4f}" for loss in row) + " |", flush=True)


def _losses(carried: Carried, way: Callable[[Carried], dict[str, Worth]], data: Data, model: nn.Module) -> list[float]:
    """Held-out loss by the part that is removed."""
    worths = way(carried)
    whole, losses = carried.state(), []
    for part in PARTS:
        remove_part(carried, worths, part)
        losses.append(data.held_out.mean_loss(model))
        carried.return_to(whole)
    return losses


def _own(carried: Carried, units: Mapping[str, Units]) -> None:
    for name, layer in carried.layers.items():
        layer.own(units[name].take(torch.zeros(0, dtype=torch.int64)))
        carried.add(name, units[name])


def _by_size(carried: Carried, units: Mapping[str, Units]) -> dict[str, Worth]:
    _own(carried, units)
    return {name: _worth(normalise(some)[1].double(), some) for name, some in units.items()}


def _by_output(
    carried: Carried, units: Mapping[str, Units], data: Data, model: nn.Module, *, is_needed: bool
) -> dict[str, Worth]:
    """As `grow` ranks them, or by the mean square of what they put out alone."""
    _own(carried, units)
    needs = matrix_needs(carried, data.held_out, model) if is_needed else None
    moments = unit_moments(carried.layers, data.training, model)
    if needs is not None:
        return {name: rank_matrix(carried, name, moments[name], needs[name]) for name in carried.layers}
    worths = {}
    for name, layer in carried.layers.items():
        axes, squares = turn_to_axes(layer.own_units(), moments[name].own)
        carried.own(name, axes, carried.parents[name][: len(axes)])
        worths[name] = _worth(squares, axes)
    return worths


def _worth(values: torch.Tensor, units: Units) -> Worth:
    size = units.incoming.shape[1] + units.outgoing.shape[1]
    return Worth(own=values, shared=torch.zeros(0, dtype=torch.float64), size=size)


if __name__ == "__main__":
    main()
