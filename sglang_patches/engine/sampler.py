"""``seed`` is honoured: a row that has one is drawn by it. And a row of which nothing can be drawn ends nobody else's.

Target: ``sglang.srt.layers.sampler.Sampler``
Why: outside of its deterministic mode SGLang draws all rows of a batch from one stream of random numbers. And where a
    grammar leaves only tokens that ``min_new_tokens`` forbids, no probability is a number, which ends the process.
How: after the draw, rows with a seed are drawn again by it (:mod:`sglang_patches.answers.seeds`); without seeds nothing
    is. A row without a possible token gets the first one, as it does where nothing is drawn: its grammar refuses that,
    and its call ends with the reason (``engine/batch_result_processor``).
Remove when: upstream draws by seed without its deterministic mode, and ends calls of which nothing can be drawn.
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
    """Draws by the seeds of a batch, and draws something of each row."""

    @overrides("d7387b207d2baf7d", "a seed would be taken silently and change nothing")
    def _sample_from_probs(
        self, probs: torch.Tensor, sampling_info: SamplingBatchInfo, positions: torch.Tensor, simple_sampling_case: bool
    ) -> torch.Tensor:
        if _may_forbid_all(sampling_info):
            _give_first(probs)
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


def _may_forbid_all(info: SamplingBatchInfo) -> bool:
    """Elsewhere a row that is no numbers is a fault of the model's, which nothing may hide."""
    penalties = info.penalizer_orchestrator  # None where steps overlap
    has_penalties = info.acc_additive_penalties is not None or (penalties is not None and penalties.is_required)
    return bool(info.grammars) or has_penalties


def _give_first(probs: torch.Tensor) -> None:
    """Give token 0 to each row of which no token is possible; without a look from the host, which would wait."""
    is_dead = probs[:, :1].isnan()
    probs.masked_fill_(is_dead, 0.0)
    probs[:, :1].masked_fill_(is_dead, 1.0)
