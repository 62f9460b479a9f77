"""What removing units of a module costs, by the units that it was trained as, and by the singular directions of their
sum.

Run: `python -m benchmarks.grow.axes`, behind `make bench-grow`, whose first module alone it takes. Prints a table.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from benchmarks.grow.__main__ import ALONE, ROOT, Benchmark, Places, folder_of
from benchmarks.grow.tasks import TASKS
from prefillshare.grow.family import Family
from prefillshare.grow.run import make_data
from prefillshare.grow.units import UnitLinear, Units, normalise, put_units_beside, turn_to_axes
from prefillshare.training.data.prepare import prepare
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.model import load_base

PARTS = (0.0, 0.4, 0.6, 0.7, 0.8)
"""Parts of the units that are removed."""
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
    held_out = make_data(prefill, prepared, settings).held_out
    trained = {name: family.sum_of(family.tasks[0], name) for name in layers}
    axes = {name: turn_to_axes(units) for name, units in trained.items()}
    print(
        f"| removed of {sum(map(len, trained.values()))} units | as trained | as singular directions |\n|---|---|---|"
    )
    for part in PARTS:
        losses = []
        for units in (trained, axes):
            _keep(layers, units, part)
            losses.append(held_out.mean_loss(model))
        print(f"| {part:.0%} | {losses[0]:.4f} | {losses[1]:.4f} |", flush=True)


def _keep(layers: Mapping[str, UnitLinear], units: Mapping[str, Units], part: float) -> None:
    """Own all but that part of the units, the weakest."""
    strengths = {name: normalise(some)[1] for name, some in units.items()}
    least = torch.cat(list(strengths.values())).quantile(part) if part else 0.0
    for name, layer in layers.items():
        layer.own(units[name].take(strengths[name] >= least))


if __name__ == "__main__":
    main()
