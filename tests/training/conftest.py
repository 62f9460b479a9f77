"""A micro model and batches for the tests of training."""

import pytest
import torch

from prefillshare.modules.adapter import LoraShape
from prefillshare.tiny.base_model import new_base
from prefillshare.tiny.recipe import ModelShape
from prefillshare.training.batch import Batch, make_batch
from prefillshare.training.model import add_adapter

MICRO = ModelShape(
    hidden_size=32, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=16, intermediate_size=48, max_positions=256
)
VOCAB = 97


@pytest.fixture
def base() -> torch.nn.Module:
    model = new_base(MICRO, VOCAB, end_token=1, pad_token=0, seed=3).float()
    with torch.no_grad():
        # Sharper attention than fresh weights have, so that a wrong mask or position shows.
        for parameter in model.parameters():
            parameter.mul_(4.0 if parameter.dim() == 2 else 1.0)
    return model


@pytest.fixture
def adapted(base: torch.nn.Module) -> torch.nn.Module:
    """The micro model with a LoRA adapter that is not zero."""
    model = add_adapter(base, LoraShape(rank=4, alpha=8), "micro", seed=5)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture
def batch() -> Batch:
    """Three conversations of different length, with one, two and three answers."""
    generator = torch.Generator().manual_seed(11)
    spans = {23: [(9, 14)], 31: [(1, 4), (20, 31)], 40: [(5, 6), (12, 20), (30, 37)]}
    documents = []
    for length, answers in spans.items():
        tokens = torch.randint(2, VOCAB, (length,), generator=generator).tolist()
        weights = [0.0] * length
        for first, end in answers:
            weights[first:end] = [1.0] * (end - first)
        documents.append((tokens, weights))
    return make_batch(documents)
