"""A killed run continues as if nothing had happened; the schedule, the optimizers and the data plan."""

import json

import pytest
import torch

from prefillshare.errors import TrainingError
from prefillshare.tiny.base_model import new_base
from prefillshare.tiny.data import plan_batches
from prefillshare.tiny.loop import LOG_NAME, LoopConfig, StepLoss, run_loop
from prefillshare.tiny.optimizer import learning_rate_at
from prefillshare.tiny.recipe import ModelShape
from prefillshare.training.batch import batch_of
from prefillshare.training.objective import ordinary_loss
from prefillshare.training.shard import Document, read_shard, write_shard

MICRO = ModelShape(
    hidden_size=32, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=32, max_positions=64
)
NUM_STEPS = 8


class Quiet:
    def say(self, text):
        pass

    def show(self, report):
        pass


class Killed(Exception):
    """Stands for kill -9: nothing of the run's process survives but its files."""


def train(directory, optimizer, killed_at=None):
    model = new_base(MICRO, 64, end_token=1, pad_token=0, seed=1)
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(2, 64, (NUM_STEPS, 4, 16), generator=generator).tolist()
    path = directory / "data.npz"
    shard = write_shard(path, (Document(tokens=row, weights=[1.0] * 16) for step in tokens for row in step))

    def step_loss(step):
        if step == killed_at:
            raise Killed
        batch = batch_of(shard, range(4 * step, 4 * step + 4))
        return StepLoss(ordinary_loss(model, batch), batch.num_tokens)

    config = LoopConfig(
        num_steps=NUM_STEPS,
        optimizer=optimizer,
        learning_rate=1e-2,
        warmup_steps=2,
        decay_fraction=0.3,
        weight_decay=0.1,
        clip_norm=1.0,
        checkpoint_steps=3,
        log_steps=1,
    )
    run_loop("micro", model.named_parameters(), step_loss, config, directory, Quiet())
    return model


def losses(directory):
    """Loss of each step; a step that was done twice counts as its second time."""
    lines = [json.loads(line) for line in (directory / LOG_NAME).read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_resume_gives_the_same_losses_and_weights(tmp_path, optimizer):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    wanted = train(whole, optimizer)
    with pytest.raises(Killed):
        train(killed, optimizer, killed_at=5)
    found = train(killed, optimizer)
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == NUM_STEPS
    for parameter, other in zip(wanted.parameters(), found.parameters(), strict=True):
        assert torch.equal(parameter, other)


def test_finished_run_is_not_trained_again(tmp_path):
    train(tmp_path, "adamw")
    before = (tmp_path / LOG_NAME).read_text()
    train(tmp_path, "adamw")
    assert (tmp_path / LOG_NAME).read_text() == before


def test_learning_rate_rises_stays_and_falls_to_zero():
    rates = [learning_rate_at(step, 100, 1.0, 10, 0.2) for step in range(101)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:81] == [1.0] * 71
    assert rates[90] == pytest.approx(0.5)
    assert rates[100] == 0.0


def test_plan_takes_every_document_once_and_keeps_the_order_of_pools():
    lengths = [7 + (13 * index) % 40 for index in range(100)]
    plan = plan_batches(lengths, 200, seed=1, pool=25)
    assert sorted(index for batch in plan for index in batch) == list(range(100))
    assert all(len(batch) * max(lengths[index] for index in batch) <= 200 for batch in plan)
    pools = [{index // 25 for index in batch} for batch in plan]
    assert all(len(pool) == 1 for pool in pools)
    assert [min(pool) for pool in pools] == sorted(min(pool) for pool in pools)


def test_shard_reads_back_and_a_broken_one_says_so(tmp_path):
    path = tmp_path / "data.npz"
    shard = write_shard(path, [Document(tokens=[1, 2, 3], weights=[0.0, 0.1, 1.0])])
    assert read_shard(path).sha256() == shard.sha256()
    path.write_bytes(b"no arrays")
    with pytest.raises(TrainingError, match="cannot be read"):
        read_shard(path)
