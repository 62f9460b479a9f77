"""``seed`` is honoured: a row that has one is drawn by it.

Target: ``sglang.srt.layers.sampler.Sampler``
Why: outside of its deterministic mode SGLang draws all rows of a batch from one stream of random numbers.
How: after the draw, rows with a seed are drawn again by it (:mod:`sglang_patches.answers.seeds`). Without seeds nothing
    is done.
Remove when: upstream draws by seed without its deterministic mode.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sglang.srt.layers import sampler as upstream

from sglang_patches.answers.seeds import NO_SEED, cut_probabilities, draw
from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from sglang_patches.engine.sampling_batch import SamplingBatchInfo


@binds("layers.sampler:Sampler", at=("kv_canary.token_oracle.sampler",))
class Sampler(upstream.Sampler):
    """Draws by the seeds of a batch."""

    @overrides("d7387b207d2baf7d", "a seed would be taken silently and change nothing")
    def _sample_from_probs(
        self, probs: torch.Tensor, sampling_info: SamplingBatchInfo, positions: torch.Tensor, simple_sampling_case: bool
    ) -> torch.Tensor:
        seeds = sampling_info.sampling_seed
        if seeds is None or self.enable_deterministic:
            return super()._sample_from_probs(probs, sampling_info, positions, simple_sampling_case)
        sampling_info.sampling_seed = None  # else upstream would look for its own kernels
        try:
            drawn = super()._sample_from_probs(probs, sampling_info, positions, simple_sampling_case)
        finally:
            sampling_info.sampling_seed = seeds
        again = draw(probs if simple_sampling_case else cut_probabilities(probs, sampling_info), seeds, positions)
        return torch.where(seeds == NO_SEED, drawn, again.to(drawn.dtype))
