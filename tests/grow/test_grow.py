"""A family over a random base: what a run adds, what it never changes, and what it refuses."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from prefillshare.errors import TrainingError
from prefillshare.grow.family import Family, count_parameters, count_units
from prefillshare.grow.run import grow
from prefillshare.grow.search import strongest
from prefillshare.grow.units import put_units_beside
from prefillshare.modules.adapter import check_adapter_fits, read_adapter
from prefillshare.modules.manifest import read_manifest
from prefillshare.training.model import load_adapter, load_base
from tests.support.families import add_random_task, load_task
from tests.support.random_models import make_base
from tests.support.training_runs import Stopped, Watcher

EASY = "max_drift = 1000.0\ngate_l1 = 0.0"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", hidden=32, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory, base: Path) -> Path:
    """A family of two tasks; nothing of it is changed."""
    directory = tmp_path_factory.mktemp("grown")
    family = directory / "family"
    grow(family, load_task(directory, base, "first"), Watcher())
    before = _contents(family)
    grow(family, load_task(directory, base, "second", growth=EASY), Watcher())
    after = _contents(family)
    assert {name: after[name] for name in before if name != "pool.bin"} == {
        name: content for name, content in before.items() if name != "pool.bin"
    }
    assert after["pool.bin"].startswith(before["pool.bin"])
    return family


@pytest.fixture
def family(tmp_path: Path, grown: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(grown, tmp_path / "family"))


def _contents(directory: Path) -> dict[str, bytes]:
    files = (file for file in directory.rglob("*") if file.is_file())
    return {str(file.relative_to(directory)): file.read_bytes() for file in files}


def test_each_step_lowers_the_held_out_loss(grown: Path) -> None:
    first, second = Family(grown).tasks
    losses = first.figures["held_out_loss"]
    assert losses["expand"] < losses["base"]
    losses = second.figures["held_out_loss"]
    # It is the same task again: what the first one learned is worth most of what there is to gain.
    assert losses["select"] < losses["base"] - 0.5 * (losses["base"] - first.figures["held_out_loss"]["prune"])
    assert losses["expand"] <= losses["select"]


def test_a_second_task_reuses_units_bit_for_bit(grown: Path) -> None:
    family = Family(grown)
    first, second = family.tasks
    counts = count_units(second.uses)
    assert counts["reused"] > 0
    assert counts["split"] == 0
    for matrix, use in second.uses.items():
        known = first.uses[matrix].new
        taken, summed = family.units(matrix).take(use.reused), family.sum_of(second, matrix)
        assert torch.equal(taken.incoming, known.incoming[use.reused])
        assert torch.equal(summed.incoming[: len(use.reused)], taken.incoming)


def test_a_unit_that_moves_far_is_a_copy_and_the_old_one_stays(family: Path, base: Path, tmp_path: Path) -> None:
    before = _contents(family)
    task = grow(family, load_task(tmp_path, base, "third", growth="max_drift = 0.0\ngate_l1 = 0.0"), Watcher())
    assert count_units(task.uses)["split"] > 0
    assert count_units(task.uses)["reused"] == 0
    after = _contents(family)
    assert all(after[name] == content for name, content in before.items() if name != "pool.bin")
    assert after["pool.bin"].startswith(before["pool.bin"])


def test_a_unit_that_did_not_move_is_no_copy(family: Path, base: Path, tmp_path: Path) -> None:
    held = "max_drift = 0.0\ngate_l1 = 0.0\ndrift_lasso = 5.0"
    task = grow(family, load_task(tmp_path, base, "third", growth=held), Watcher())
    counts = count_units(task.uses)
    assert (counts["split"], counts["reused"] > 0) == (0, True)
    losses = task.figures["held_out_loss"]
    assert losses["split"] == losses["retrain"]


def test_no_matrix_takes_more_units_than_max_reused_and_the_strongest_stay(
    family: Path, base: Path, tmp_path: Path
) -> None:
    growth = f"max_reused = 1\nprune_tolerance = 0.0\n{EASY}"
    watcher, known = Watcher(), Family(family)
    num_with_units = sum(len(known.units(matrix)) > 0 for matrix in known.shapes)
    task = grow(family, load_task(tmp_path, base, "third", growth=growth), watcher)
    counts = [len(use.reused) for use in task.uses.values()]
    assert max(counts) == 1
    assert all(use.rank <= 1 + 2 for use in task.uses.values())
    assert any(f"takes {num_with_units} units of earlier tasks" in line for line in watcher.said)


def test_the_strongest_gates_are_chosen_in_the_order_of_the_units() -> None:
    gates = torch.tensor([0.1, -3.0, 0.0, 2.0, 0.2])
    assert strongest(gates, 2).tolist() == [1, 3]
    assert strongest(gates, 9).tolist() == [0, 1, 3, 4]
    assert strongest(gates, 0).tolist() == []


def test_a_start_that_is_no_gain_is_none(family: Path, base: Path, tmp_path: Path) -> None:
    said = []
    for number, min_gain in enumerate((0.0, 1.0)):
        watcher = Watcher()
        task = load_task(tmp_path, base, f"task{number}", growth=f"min_gain = {min_gain}")
        grow(Path(shutil.copytree(family, tmp_path / f"copy{number}")), task, watcher)
        said.append(next(line for line in watcher.said if "starts from" in line))
    # It is the same task as both of the family.
    assert "starts from no task" not in said[0]
    assert "starts from no task" in said[1]


def test_new_units_learn_from_the_beginning(family: Path, base: Path, tmp_path: Path) -> None:
    """A task for which no gate stays is not behind when it has selected: its own units have learned meanwhile."""
    task = grow(family, load_task(tmp_path, base, "third", growth="gate_l1 = 50.0"), Watcher())
    assert count_units(task.uses)["reused"] == 0
    losses = task.figures["held_out_loss"]
    assert losses["select"] < losses["base"] == losses["reused"]
    assert losses["expand"] <= losses["select"]


def test_gates_that_do_not_help_end_at_exactly_zero(family: Path, base: Path, tmp_path: Path) -> None:
    task = grow(family, load_task(tmp_path, base, "third", growth="gate_l1 = 50.0"), Watcher())
    assert count_units(task.uses)["reused"] == 0


def test_the_adapter_is_the_sum_of_the_units(tmp_path: Path, base: Path) -> None:
    for number, name in enumerate(("one", "two")):
        add_random_task(tmp_path / "family", base, name, seed=number)
    family, tokens = Family(tmp_path / "family"), torch.arange(3, 40)[None]
    assert family.identity is not None
    with torch.no_grad():
        plain = load_base(base, torch.float32)(tokens).logits
        for task in family.tasks:
            model, layers = put_units_beside(load_base(base, torch.float32), family.identity["targets"])
            for name, layer in layers.items():
                layer.own(family.sum_of(task, name))
            adapted = load_adapter(load_base(base, torch.float32), family.module(task.name))
            wanted, found = model(tokens).logits, adapted(tokens).logits
            difference = float((wanted - found).abs().max())
            print(f"{task.name}: largest difference of logits {difference:.2e}")
            assert difference < 1e-4 < float((wanted - plain).abs().max())


def test_the_module_is_one_that_fits(grown: Path, base: Path) -> None:
    adapter = read_adapter(grown / "second", "second")
    check_adapter_fits(adapter, base, "second", "base")
    manifest = read_manifest(grown / "second")
    assert manifest is not None
    assert manifest.shares_prefill
    assert manifest.name == "second"
    said = manifest.training["grown"]
    task = Family(grown).tasks[1]
    assert said["reused_from"] == {"first": said["units"]["reused"]}
    assert said["num_parameters"] == count_parameters(Family(grown).shapes, task.uses)
    assert manifest.training["data"]["num_rows"] == 8


def test_the_base_is_not_touched_and_not_copied(base: Path) -> None:
    plain = load_base(base, torch.float32)
    model, layers = put_units_beside(plain, ["q_proj"])
    assert {id(tensor) for tensor in plain.parameters()} < {id(tensor) for tensor in model.parameters()}
    assert len(layers) == 2
    assert not any("own_in" in name for name, _ in plain.named_parameters())


def test_a_run_that_ends_early_leaves_the_family_as_it_was(family: Path, base: Path, tmp_path: Path) -> None:
    class Killed(Watcher):
        def say(self, text: str) -> None:
            if "round 1" in text:
                raise Stopped

    task, before = load_task(tmp_path, base, "third"), _contents(family)
    with pytest.raises(Stopped):
        grow(family, task, Killed())
    assert _contents(family) == before
    undisturbed = Path(shutil.copytree(family, tmp_path / "undisturbed"))
    for directory in (family, undisturbed):
        grow(directory, task, Watcher())
    assert _contents(family) == _contents(undisturbed)


def test_what_was_killed_behind_the_append_is_written_by_the_next_run(family: Path, base: Path, tmp_path: Path) -> None:
    before = _contents(family)
    shutil.rmtree(family / "second")
    (family / ".second").mkdir()
    grow(family, load_task(tmp_path, base, "third"), Watcher())
    assert {name: content for name, content in _contents(family).items() if name in before and name != "pool.bin"} == {
        name: content for name, content in before.items() if name != "pool.bin"
    }


def test_a_cut_append_is_left_out_and_said(family: Path, base: Path, tmp_path: Path) -> None:
    content = (family / "pool.bin").read_bytes()
    (family / "pool.bin").write_bytes(content + content[:100])
    watcher = Watcher()
    grow(family, load_task(tmp_path, base, "third"), watcher)
    assert any("the last 100 bytes are of a run that was interrupted" in line for line in watcher.said)
    assert [task.name for task in Family(family).tasks] == ["first", "second", "third"]


def test_a_pool_that_lost_a_task_is_refused(family: Path, base: Path, tmp_path: Path) -> None:
    content = (family / "pool.bin").read_bytes()
    (family / "pool.bin").write_bytes(content[:-10])
    with pytest.raises(TrainingError, match=r"second is a module that pool.bin does not know: the file was cut short"):
        grow(family, load_task(tmp_path, base, "third"), Watcher())


def test_an_adapter_that_was_changed_is_refused(family: Path, base: Path, tmp_path: Path) -> None:
    file = family / "first" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(TrainingError, match="was changed since task 'first' was grown"):
        grow(family, load_task(tmp_path, base, "third"), Watcher())


def test_a_task_is_grown_once(family: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="has a task 'second' already"):
        grow(family, load_task(tmp_path, base, "second"), Watcher())


def test_another_base_is_refused(family: Path, tmp_path: Path) -> None:
    other = make_base(tmp_path / "other", hidden=32, heads=2, kv_heads=1, seed=1)
    with pytest.raises(TrainingError, match="stands on a base with prefill_fingerprint sha256:"):
        grow(family, load_task(tmp_path, other, "third"), Watcher())


def test_other_matrices_are_refused(family: Path, base: Path, tmp_path: Path) -> None:
    task = load_task(tmp_path, base, "third", head='targets = ["q_proj"]')
    with pytest.raises(TrainingError, match="has targets q_proj and the family"):
        grow(family, task, Watcher())


def test_a_tau_that_nothing_reaches_is_said_and_the_best_is_kept(family: Path, base: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    task = grow(family, load_task(tmp_path, base, "third", growth="tau = 1e-9"), watcher)
    assert any("nothing reached tau = 1e-09; what was found is kept" in line for line in watcher.said)
    losses = task.figures["held_out_loss"]
    assert losses["expand"] <= losses["base"]


def test_a_tau_that_is_reached_adds_nothing(family: Path, base: Path, tmp_path: Path) -> None:
    task = grow(family, load_task(tmp_path, base, "third", growth=f"tau = 1000.0\n{EASY}"), Watcher())
    assert count_units(task.uses)["new"] == 0
    assert json.loads((family / "third" / "adapter_config.json").read_text())["lora_alpha"] >= 1


@pytest.mark.parametrize(
    ("growth", "num_cycles"),
    [
        ("max_cycles = 3\nmin_gain = 0.0", 3),
        ("max_cycles = 1\nmin_gain = 0.0", 1),
        ("max_cycles = 3\nmin_gain = 1.0", 1),
    ],
)
def test_passes_are_repeated_while_they_gain(
    family: Path, base: Path, tmp_path: Path, growth: str, num_cycles: int
) -> None:
    watcher = Watcher()
    grow(family, load_task(tmp_path, base, "third", growth=growth), watcher)
    cycles = {line.split("cycle ")[1].split(",")[0] for line in watcher.said if "round 1, cycle" in line}
    assert cycles == {str(number + 1) for number in range(num_cycles)}


def test_passes_end_at_tau(family: Path, base: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    growth = "max_cycles = 3\nmin_gain = 0.0\nmax_reused = 0\ntau = "
    loss = grow(family, load_task(tmp_path, base, "third", growth=f"{growth}0.0"), Watcher()).figures["held_out_loss"]
    halfway = (loss["base"] + loss["round 1"]) / 2
    grow(family, load_task(tmp_path, base, "fourth", growth=f"{growth}{halfway}"), watcher)
    assert not any("round 1, cycle 3" in line for line in watcher.said)
    assert not any("nothing reached tau" in line for line in watcher.said)


def test_a_round_that_gains_too_little_is_taken_back(family: Path, base: Path, tmp_path: Path) -> None:
    task = grow(family, load_task(tmp_path, base, "third", growth=f"min_gain = 1.0\n{EASY}"), Watcher())
    losses = task.figures["held_out_loss"]
    assert losses["round 1"] < losses["reused"]
    assert count_units(task.uses)["new"] == 0
    # Gates are again what they were before the round as well.
    assert losses["expand"] == pytest.approx(losses["reused"])
