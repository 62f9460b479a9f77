"""Which units go when a task is pruned, and what becomes of the others."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefillshare.config.training import PROJECTIONS
from prefillshare.grow.carried import Carried
from prefillshare.grow.family import GrownTask, count_units
from prefillshare.grow.fit import Data
from prefillshare.grow.prune import Worth, least_of_part, matrix_needs, rank_matrix, remove_part, unit_moments
from prefillshare.grow.run import grow, make_data
from prefillshare.grow.units import Units, put_units_beside
from prefillshare.training.data.prepare import prepare
from prefillshare.training.finetune.models import load_tokenizer
from prefillshare.training.model import load_base
from tests.support.families import load_task
from tests.support.random_models import make_base
from tests.support.training_runs import Watcher

NUM_UNITS = 3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", hidden=32, heads=2, kv_heads=1)


def _lay(base: Path, directory: Path, size: int) -> tuple[torch.nn.Module, Carried, Data]:
    """A decode module with random units in every matrix, and data in batches of a size."""
    task = load_task(directory, base, "task")
    task = replace(task, batch=replace(task.batch, size=size, packed=False))
    prefill = load_base(base, torch.float32).requires_grad_(False).eval()
    model, layers = put_units_beside(prefill, PROJECTIONS)
    generator, carried = torch.Generator().manual_seed(1), Carried(layers)
    for name, layer in layers.items():
        carried.add(name, _random(layer.base, generator))
        shared = _random(layer.base, generator)
        carried.share(name, torch.arange(NUM_UNITS), shared, torch.tensor([0.5, -2.0, 1.0]))
    prepared = prepare(task.as_training(directory / "module"), load_tokenizer(base))
    return model, carried, make_data(prefill, prepared, task)


def _random(linear: torch.nn.Linear, generator: torch.Generator) -> Units:
    return Units(
        incoming=torch.randn(NUM_UNITS, linear.in_features, generator=generator) / linear.in_features**0.5,
        outgoing=torch.randn(NUM_UNITS, linear.out_features, generator=generator) / linear.out_features**0.5,
    )


def test_padding_is_no_input(base: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 4):
        model, carried, data = _lay(base, tmp_path, size)
        found.append(unit_moments(carried.layers, data.training, model))
    padded = [bool((~data.training.is_query(number)).any()) for number in range(len(data.training))]
    assert any(padded)
    for name, alone in found[0].items():
        assert torch.allclose(found[1][name].own, alone.own, rtol=1e-4, atol=1e-6), name
        assert torch.allclose(found[1][name].shared, alone.shared, rtol=1e-4, atol=1e-6), name
        assert float(alone.own.diagonal().min()) > 0


def test_worth_is_the_part_of_the_output_times_the_need(base: Path, tmp_path: Path) -> None:
    model, carried, data = _lay(base, tmp_path, 4)
    name, layer = next(iter(carried.layers.items()))
    seen: list[torch.Tensor] = []
    for number in range(len(data.training)):
        mask = data.training.is_query(number)
        hook = layer.register_forward_pre_hook(lambda _, args, mask=mask: seen.append(args[0][mask]))
        with torch.no_grad():
            data.training.loss(model, number)
        hook.remove()
    inputs = torch.cat(seen)
    worth = rank_matrix(carried, name, unit_moments(carried.layers, data.training, model)[name], 0.6)
    own, shared, gates = layer.own_units(), layer.shared_units(), layer.gate_values()
    outputs = [(inputs @ own.incoming[i])[:, None] * own.outgoing[i] for i in range(NUM_UNITS)]
    outputs += [gates[i] * (inputs @ shared.incoming[i])[:, None] * shared.outgoing[i] for i in range(NUM_UNITS)]
    squares = torch.tensor([float(output.square().sum(dim=1).mean()) for output in outputs])
    wanted = 0.6 * squares / squares.sum() / (layer.base.in_features + layer.base.out_features)
    assert torch.allclose(torch.cat((worth.own, worth.shared)).float(), wanted, rtol=1e-3)
    assert worth.own.tolist() == sorted(worth.own.tolist(), reverse=True)


def test_a_matrix_that_does_nothing_is_needed_least(base: Path, tmp_path: Path) -> None:
    model, carried, data = _lay(base, tmp_path, 4)
    idle, empty, *_ = carried.layers
    silent = carried.layers[idle].own_units()
    carried.layers[idle].own(replace(silent, outgoing=torch.zeros_like(silent.outgoing)))
    carried.keep(idle, shared=torch.zeros(NUM_UNITS, dtype=torch.bool))
    carried.keep(empty, own=torch.zeros(NUM_UNITS, dtype=torch.bool), shared=torch.zeros(NUM_UNITS, dtype=torch.bool))
    before = carried.state()
    needs = matrix_needs(carried, data.held_out, model)
    assert needs[idle] == needs[empty] == min(needs.values()) > 0
    assert max(needs.values()) > 1000 * needs[idle]
    for name, held in carried.state().items():
        assert torch.equal(held.own.vectors(), before[name].own.vectors())
        assert torch.equal(held.gates, before[name].gates)
        assert torch.equal(held.numbers, before[name].numbers)


def test_the_weakest_go_up_to_a_part_of_all_numbers() -> None:
    nothing = torch.zeros(0, dtype=torch.float64)
    worths = {
        "small": Worth(own=torch.tensor([1.0, 4.0]).double(), shared=torch.tensor([3.0]).double(), size=10),
        "large": Worth(own=torch.tensor([2.0]).double(), shared=nothing, size=70),
    }
    # In the order of their worth they take 10, 70, 10 and 10 of 100.
    assert [least_of_part(worths, part) for part in (0.0, 0.09, 0.1, 0.7, 0.8, 0.9, 0.99)] == [1, 1, 2, 2, 3, 4, 4]
    assert least_of_part({"none": Worth(own=nothing, shared=nothing, size=1)}, 0.5) == 0


def test_what_is_worth_least_goes_own_and_shared_alike(base: Path, tmp_path: Path) -> None:
    _, carried, _ = _lay(base, tmp_path, 4)
    nothing = torch.zeros(0, dtype=torch.float64)
    alone, both, *others = carried.layers
    carried.keep(alone, shared=torch.zeros(NUM_UNITS, dtype=torch.bool))
    before = carried.state()
    worths = {
        alone: Worth(own=torch.tensor([3.0, 1.0, 9.0]).double(), shared=nothing, size=1),
        both: Worth(own=torch.tensor([8.0, 2.0, 7.0]).double(), shared=torch.tensor([6.0, 4.0, 5.0]).double(), size=1),
    }
    remove_part(carried, worths, 4 / 9)
    after = carried.state()
    assert torch.equal(after[alone].own.vectors(), before[alone].own.vectors()[[2]])
    assert torch.equal(after[both].own.vectors(), before[both].own.vectors()[[0, 2]])
    assert after[both].numbers.tolist() == [0, 2]
    assert torch.equal(after[both].gates, before[both].gates[[0, 2]])
    for name in others:
        assert (len(after[name].own), len(after[name].gates)) == (NUM_UNITS, NUM_UNITS)


def _grow(base: Path, directory: Path, growth: str) -> tuple[list[GrownTask], Watcher]:
    """Two tasks, the second with units of the first."""
    directory.mkdir()
    watcher, easy = Watcher(), "max_drift = 1000.0\ngate_l1 = 0.0"
    first = grow(directory / "family", load_task(directory, base, "first", growth=growth), watcher)
    return [
        first,
        grow(directory / "family", load_task(directory, base, "second", growth=f"{growth}\n{easy}"), watcher),
    ], watcher


def _num(tasks: list[GrownTask]) -> list[int]:
    return [sum(count_units(task.uses).values()) for task in tasks]


def test_a_repair_takes_more_away_and_says_what_that_came_to(base: Path, tmp_path: Path) -> None:
    growth = "prune_tolerance = 0.2\nretrain_rate = 0.01\nrepair_epochs = 6\nmax_repairs = "
    whole, _ = _grow(base, tmp_path / "none", f"{growth}0")
    repaired, watcher = _grow(base, tmp_path / "one", f"{growth}1")
    print(f"units {_num(whole)}, repaired {_num(repaired)}")
    assert _num(repaired)[0] < _num(whole)[0]
    assert count_units(repaired[1].uses)["reused"] > 0
    for task, num in zip(repaired, _num(repaired), strict=True):
        losses = task.figures["held_out_loss"]
        assert losses["prune"] <= 1.2 * losses["expand"]
        # Gates of units that went do not learn again.
        told = f"{task.name}: with {num} of "
        assert any(line.startswith(told) and line.endswith(f"{losses['prune']:.4f}") for line in watcher.said)


def test_a_repair_that_does_not_make_good_is_taken_back(base: Path, tmp_path: Path) -> None:
    growth = "prune_tolerance = 1e-6\nretrain_rate = 1e-9\ngate_rate = 1e-9\nmax_repairs = "
    whole, _ = _grow(base, tmp_path / "none", f"{growth}0")
    tried, watcher = _grow(base, tmp_path / "two", f"{growth}2")
    assert sum("the others are needed" in line for line in watcher.said) == 2
    assert [task.adapter_sha256 for task in tried] == [task.adapter_sha256 for task in whole]


def test_without_tolerance_nothing_goes(base: Path, tmp_path: Path) -> None:
    tasks, watcher = _grow(base, tmp_path / "none", "prune_tolerance = 0.0")
    assert {len(use.new) for use in tasks[0].uses.values()} == {2}
    assert not any("not needed" in line or "repair" in line for line in watcher.said)
    losses = tasks[0].figures["held_out_loss"]
    assert losses["prune"] == losses["expand"]
