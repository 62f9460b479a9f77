"""One random base, an adapter on it, and one uninterrupted run that others are compared with."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support.random_models import make_adapter, make_base
from tests.support.training_runs import train, write_training


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """More threads only wait for each other on models of this size; runs in other processes have one, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def random_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base") / "base", hidden=32, heads=2, kv_heads=1)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory, random_base: Path) -> Path:
    """Output of a LoRA run that nothing interrupted."""
    return train(write_training(tmp_path_factory.mktemp("whole"), random_base))


@pytest.fixture
def ordinary(tmp_path: Path, random_base: Path) -> Path:
    """An adapter that was trained the ordinary way, of a shape that is nobody's default."""
    folder = tmp_path / "ordinary"
    make_adapter(
        folder, random_base, "ordinary", seed=3, objective="full-ft", rank=6, target_modules=("q_proj", "up_proj")
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "lora_dropout": 0.5, "lora_alpha": 24}))
    return folder
