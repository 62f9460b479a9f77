"""Draws by seed: the same whatever else is in the batch, and from the right distribution."""

import subprocess
import sys

import pytest

from sglang_patches.answers.seeds import sample_seed

DRAWS = """
import torch
from types import SimpleNamespace
from sglang_patches.answers.seeds import cut_probabilities, draw

torch.manual_seed(0)
probs = torch.softmax(torch.randn(1, 50) * 2, dim=-1)
seeds = torch.arange(40_000) - 20_000
positions = torch.full_like(seeds, 7)
tokens = draw(probs.expand(len(seeds), -1), seeds, positions)

# Alone or in company, a row draws the same.
for row in (0, 17, 39_999):
    assert draw(probs, seeds[row:row + 1], positions[row:row + 1]) == tokens[row]

# Over seeds, and over positions of one seed, the draws follow the distribution: chi-squared with 49 degrees of freedom
# exceeds 90 once in 3,000 times, and these seeds are fixed.
by_position = draw(probs.expand(40_000, -1), torch.full((40_000,), 3), torch.arange(40_000))
for drawn in (tokens, by_position):
    expected = probs[0].double() * len(drawn)
    seen = torch.bincount(drawn, minlength=50).double()
    assert ((seen - expected) ** 2 / expected).sum() < 90, ((seen - expected) ** 2 / expected).sum()

# What is cut away is never drawn; ties keep one order.
info = SimpleNamespace(top_ks=torch.tensor([3]), top_ps=torch.tensor([1.0]), min_ps=torch.tensor([0.0]))
left = cut_probabilities(probs, info)
assert (left > 0).sum() == 3
assert set(draw(left.expand(500, -1), seeds[:500], positions[:500]).tolist()) == set(probs[0].topk(3).indices.tolist())
info.top_ks[0], info.top_ps[0] = 50, 0.5
cut = cut_probabilities(probs, info)
assert 0.5 <= cut.sum() < 1
info.top_ps[0], info.min_ps[0] = 1.0, 0.5
assert (cut_probabilities(probs, info)[0] > 0).tolist() == (probs[0] >= probs.max() * 0.5).tolist()
"""


@pytest.mark.slow
def test_draws_depend_on_the_row_alone_and_follow_the_distribution() -> None:
    done = subprocess.run([sys.executable, "-c", DRAWS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("seed", [0, -1, 2**63 - 1, -(2**63)])
def test_the_samples_of_a_call_have_seeds_of_their_own(seed: int) -> None:
    seeds = [sample_seed(seed, index) for index in range(128)]
    assert seeds[0] == seed
    assert len(set(seeds)) == 128
    assert all(-(2**63) <= one < 2**63 for one in seeds)
