"""A run over a range of sharing ratios: each conversation has its own, whoever computes it, wherever a run goes on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from prefillshare.config import load_training
from prefillshare.errors import TrainingError
from prefillshare.modules.manifest import read_manifest
from prefillshare.training.finetune.costs import cost_figures
from prefillshare.training.finetune.estimate import estimate
from prefillshare.training.finetune.examples import Examples, read_examples, write_examples
from prefillshare.training.finetune.feed import make_feed
from prefillshare.training.finetune.ratios import RatioRange
from prefillshare.training.finetune.run import Finetune
from prefillshare.training.shard import Document
from tests.support.training_runs import NUM_STEPS, Stopped, Watcher, losses, stop_at, train, write_training
from tests.training.finetune.test_faults import train_in_two_processes

TOLERANCE = 1e-5
RANGE = [0.2, 1.0]


def write(directory: Path, base: Path, **settings: object) -> Path:
    return write_training(directory, base, top={"sharing_ratio": RANGE}, **settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, random_base: Path) -> Path:
    """Output of a run that nothing interrupted."""
    return train(write(tmp_path_factory.mktemp("range"), random_base))


def largest_difference(output: Path, other: Path) -> float:
    pairs = list(zip(losses(output), losses(other), strict=True))
    assert len(pairs) == NUM_STEPS
    return max(abs(loss - other_loss) for (_, loss), (_, other_loss) in pairs)


def test_ratios_lie_in_the_range_and_what_is_served_is_drawn_by_itself() -> None:
    ratios = RatioRange(lowest=0.2, seed=3)
    drawn = [ratios.draw(0, index) for index in range(2000)]
    assert min(drawn) >= 0.2
    assert max(drawn) == 1
    # Three quarters at 1, the rest evenly: five standard deviations of 2,000 draws are 0.05.
    assert abs(sum(ratio == 1 for ratio in drawn) / 2000 - 0.75) < 0.05
    for low in (0.2, 0.4, 0.6, 0.8):
        assert abs(sum(low <= ratio < min(1, low + 0.2) for ratio in drawn) / 2000 - 0.25 / 4) < 0.03
    assert drawn[:50] != [ratios.draw(1, index) for index in range(50)]
    assert drawn[:50] != [RatioRange(lowest=0.2, seed=4).draw(0, index) for index in range(50)]


def test_a_conversation_has_its_ratio_wherever_it_stands_in_the_order(whole: Path) -> None:
    training = load_training(whole.parent / "out.toml")
    examples = read_examples(whole / "run", "data")
    feed = make_feed(training, examples)
    first = dict(feed.order)  # type: ignore[call-overload]
    other = dict(make_feed(training, examples).order)  # type: ignore[call-overload]
    assert first == other
    assert sorted(first) == list(range(len(examples)))
    feed.order.set_epoch(1)
    second = dict(feed.order)  # type: ignore[call-overload]
    assert all(first[index] != second[index] for index in first if 1 not in (first[index], second[index]))
    chosen = list(second.items())[:3]
    layout = feed.collate.layout([feed.examples[drawn] for drawn in chosen])  # type: ignore[call-overload]
    prefixes, num_queries = set(), 0
    for index, ratio in chosen:
        ((tokens, weights),) = examples[index]
        boundary = int(ratio * (int((weights > 0).argmax()) - 1))
        prefixes |= {tuple(tokens[: end + 1]) for end in range(boundary)}
        num_queries += len(tokens) - 1 - boundary
    # What several prompts start with is computed once.
    assert layout.prefill_tokens.numel() == len(prefixes)
    assert layout.inputs.numel() == num_queries


def test_the_module_says_its_range(whole: Path, whole_run: Path) -> None:
    manifest = read_manifest(whole)
    assert manifest is not None
    assert manifest.training["config"]["sharing_ratio"] == RANGE
    assert manifest.shares_prefill
    ordinary = read_manifest(whole_run)
    assert ordinary is not None
    assert ordinary.training["config"]["sharing_ratio"] is None


def test_another_way_of_batching_does_not_change_the_losses(tmp_path: Path, random_base: Path, whole: Path) -> None:
    for name, batch in {
        "wide": {"size": 4, "accumulation": 1},
        "mixed": {"size": 2, "accumulation": 2, "packed": False},
    }.items():
        output = train(write(tmp_path, random_base, output=name, batch=batch))
        worst = largest_difference(output, whole)
        print(f"{name} batches: losses differ by at most {worst:.1e}")
        assert worst < TOLERANCE


def test_it_parts_from_training_over_whole_shared_prompts(whole: Path, whole_run: Path) -> None:
    pairs = zip(losses(whole), losses(whole_run), strict=True)
    # Not in the first step: a fresh adapter is the base, whoever computes the prompt.
    assert all(abs(loss - other) > TOLERANCE for (_, loss), (_, other) in list(pairs)[1:])


# In the middle of the first epoch of three steps, and of the second.
@pytest.mark.parametrize("step", [3, 5])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path: Path, random_base: Path, whole: Path, step: int) -> None:
    file = write(tmp_path, random_base)
    with pytest.raises(Stopped):
        train(file, stop_at(step))
    file.write_text(file.read_text().replace("[0.2, 1.0]", "[0.1, 1.0]"))
    with pytest.raises(TrainingError, match=r"started with sharing_ratio = \[0.2, 1.0\] and now it is \[0.1, 1.0\]"):
        train(file, resume=True)
    file.write_text(file.read_text().replace("[0.1, 1.0]", "[0.2, 1.0]"))
    train(file, resume=True)
    assert losses(tmp_path / "out") == losses(whole)
    module, other = (path / "adapter_model.safetensors" for path in (tmp_path / "out", whole))
    assert module.read_bytes() == other.read_bytes()


@pytest.mark.long
def test_two_processes_equal_one_with_twice_the_accumulation(tmp_path: Path, random_base: Path, whole: Path) -> None:
    file = write(tmp_path, random_base, batch={"accumulation": 2})
    train_in_two_processes(file)
    worst = largest_difference(tmp_path / "out", whole)
    print(f"two processes against one: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE


def test_full_weights_are_trained_so_too(tmp_path: Path, random_base: Path) -> None:
    runs = [
        losses(
            train(
                write(tmp_path, random_base, kind="full", output=f"full-{flag}", run={"gradient_checkpointing": flag})
            )
        )
        for flag in (False, True)
    ]
    worst = max(abs(loss - other) for (_, loss), (_, other) in zip(*runs, strict=True))
    print(f"with and without checkpointing: losses differ by at most {worst:.1e}")
    assert worst < TOLERANCE
    assert runs[0][-1][1] < runs[0][0][1]


def test_a_dry_run_says_what_it_costs(tmp_path: Path, random_base: Path) -> None:
    plan = Finetune(load_training(write(tmp_path, random_base)), Watcher()).plan()
    (line,) = [line for line in plan.lines if line.startswith("sharing")]
    assert line.startswith("sharing   20% to 100% of a prompt the base's: the module computes ")
    drawn, shared = plan.figures["num_module_tokens"], plan.figures["num_module_tokens_shared"]
    assert f"{drawn:,} tokens with gradient, {drawn / shared:.1f} times as many" in line
    assert shared == plan.figures["num_target_tokens"]
    assert json.dumps(plan.figures)
    without = Finetune(load_training(write_training(tmp_path, random_base)), Watcher()).plan()
    assert not [line for line in without.lines if line.startswith("sharing")]
    assert "num_module_tokens" not in without.figures


@pytest.fixture
def long_prompt(tmp_path: Path) -> Examples:
    rows = [[Document(tokens=range(3, 103), weights=[0.0] * 90 + [1.0] * 10)]]
    return write_examples(tmp_path, "data", rows)


def test_what_it_costs_is_counted(tmp_path: Path, random_base: Path, long_prompt: Examples) -> None:
    training = load_training(write(tmp_path, random_base))
    ratio = RatioRange(lowest=0.2, seed=7).draw(0, 0)
    # Of 89 tokens before x_n the base has a part; the others, x_n and nine of the answer are the module's.
    wanted = {"num_module_tokens": 89 - int(ratio * 89) + 10, "num_module_tokens_shared": 10}
    assert cost_figures(training, long_prompt) == wanted
    needed = [
        estimate(replace(training, sharing_ratio=ratio), random_base, long_prompt).activation_bytes
        for ratio in (None, (1.0, 1.0), (0.5, 1.0), (0.0, 1.0))
    ]
    # The lowest ratio may come at any time.
    assert needed[0] == needed[1] < needed[2] < needed[3]
