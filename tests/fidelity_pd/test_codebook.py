"""A decode module of 2-bit codebook weights over the base's full-precision KV: tokens as with its expanded weights.

The module is the tiny family's `math`, quantised here in seconds, served by the best kernel of this processor and by
the one for every other. 24 held-out prompts, cold, and twelve at a time.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from prefillshare.codebook.kernels.layout import KERNEL_VARIABLE
from prefillshare.codebook.packed import best_kernel
from prefillshare.codebook.section import codebook_shape
from prefillshare.codebook.shape import CodebookShape
from prefillshare.modules.manifest import read_manifest
from prefillshare.quantize.clusters import Clustering
from prefillshare.quantize.layers import Recipe, quantise_module
from prefillshare.quantize.source import WeightSource
from prefillshare.training.model import load_base
from tests.fidelity_pd.conftest import NUM_TOKENS, Prompt
from tests.support.marks import starts_engine, takes_long
from tests.support.pd import BASE_NAME, TINY, Pair, pd_workers

KERNELS = {"best": best_kernel(), "floats": "floats"}
"""Decode modules by name, and the kernel that each is served by."""
NEAR_TIE = 1e-4
"""Difference of two log-probabilities below which either token is right."""


@pytest.fixture(scope="module")
@takes_long
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = read_manifest(TINY / "math")
    assert manifest is not None
    recipe = Recipe(source="math", clustering=Clustering(num_samples=1 << 13, num_rounds=8))
    out = tmp_path_factory.mktemp("quantised") / "math"
    source = WeightSource(TINY / "base", TINY / "math")
    return quantise_module(source, out, recipe, dataclasses.replace(manifest, kind="full"))


@pytest.fixture(scope="module")
@starts_engine
def pairs(quantised: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Pair]]:
    file = tmp_path_factory.mktemp("pd") / "pd.toml"
    modules = "".join(f'[[decode]]\nname = "{kernel}"\nkind = "full"\npath = "{quantised}"\n' for kernel in KERNELS)
    file.write_text(
        f'name = "pd"\ntopology = "disaggregated"\n[prefill]\nname = "{BASE_NAME}"\npath = "{TINY / "base"}"\n'
        f'{modules}[engine]\ndtype = "float32"\n'
    )
    with pd_workers(file, environment={"decode-floats-0": {KERNEL_VARIABLE: "floats"}}) as workers:
        yield workers.pairs
        for name, kernel in KERNELS.items():
            assert f"codebook weights: 2.125 bits, kernel {kernel}" in workers.log(f"decode-{name}-0")


class Expanded:
    """The prefill module, and the decode module with its weights expanded."""

    def __init__(self, module: Path) -> None:
        self.base: Any = load_base(TINY / "base", torch.float32).eval()
        self.module: Any = load_base(module, torch.float32).eval()

    @torch.no_grad()
    def scores(self, prompt: Prompt, answer: list[int]) -> torch.Tensor:
        """What the module says in the place of each token of an answer: log-probabilities (tokens, vocabulary)."""
        cache = self.base(torch.tensor([prompt[:-1]]), use_cache=True, logits_to_keep=1).past_key_values
        tokens = torch.tensor([[prompt[-1], *answer[:-1]]])
        logits = self.module(tokens, past_key_values=cache, use_cache=True).logits[0]
        return torch.log_softmax(logits.double(), dim=-1)


@pytest.fixture(scope="module")
def expanded(quantised: Path) -> Expanded:
    return Expanded(quantised)


@pytest.mark.parametrize("kernel", KERNELS)
def test_served_tokens_are_those_of_the_expanded_weights(
    pairs: dict[str, Pair], kernel: str, prompts: list[Prompt], expanded: Expanded, quantised: Path
) -> None:
    pair = pairs[kernel]
    assert codebook_shape(quantised) == CodebookShape()
    one_by_one = [pair.generate(prompt, NUM_TOKENS).tokens for prompt in prompts]
    pair.flush()
    together = [answer.tokens for answer in pair.generate_all(prompts, NUM_TOKENS, 12)]

    largest, num_ties = 0.0, 0
    for answers in (one_by_one, together):
        for prompt, answer in zip(prompts, answers, strict=True):
            scores = expanded.scores(prompt, answer)
            lost = scores.max(dim=-1).values - scores[torch.arange(len(answer)), torch.tensor(answer)]
            num_ties += int((lost > 0).sum())
            largest = max(largest, float(lost.max()))
    print(f"{num_ties} tokens of near ties, the largest difference {largest:.1e}, tolerance {NEAR_TIE:.0e}")
    assert largest < NEAR_TIE
