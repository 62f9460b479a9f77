"""A batch in which some request has a seed knows one for each row, and what was said before a retraction.

Target: ``sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo``
Why: SGLang reads seeds only in its deterministic mode, which needs kernels of its own and slows all calls; elsewhere it
    takes them silently. And it counts nothing for penalties of what a request said before it was retracted.
How: rows without a seed get ``NO_SEED``; a batch without any stays as upstream makes it. What was said is counted
    (:mod:`sglang_patches.patches.penalties`), but for a token that is the input of the next step, which counts it.
Remove when: upstream draws by seed without its deterministic mode, and counts what was said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sglang.srt.sampling import sampling_batch_info as upstream

from sglang_patches.answers.seeds import NO_SEED
from sglang_patches.declarations import binds, overrides
from sglang_patches.patches.penalties import count_outputs, put_in_order

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch


@binds(
    "sampling.sampling_batch_info:SamplingBatchInfo",
    at=(
        "disaggregation.decode_schedule_batch_mixin",
        "layers.sampler",
        "managers.schedule_batch",
        "managers.scheduler",
        "model_executor.model_runner",
        "speculative.eagle_draft_cuda_graph_runner",
    ),
)
class SamplingBatchInfo(upstream.SamplingBatchInfo):
    """Carries the seeds of its requests."""

    @overrides("e028d9ee8ffffdf5", "a seed would change nothing, and penalties would forget what a retracted call said")
    @classmethod
    def from_schedule_batch(cls, batch: ScheduleBatch, vocab_size: int) -> SamplingBatchInfo:
        info: SamplingBatchInfo = super().from_schedule_batch(batch, vocab_size)
        seeds = [req.sampling_params.sampling_seed for req in batch.reqs]
        if info.sampling_seed is None and any(seed is not None for seed in seeds):
            _set_seeds(info, [NO_SEED if seed is None else max(seed, NO_SEED + 1) for seed in seeds])
        # Also where none is wanted yet: rows that come later bring theirs, and keep the order that is here.
        put_in_order(info.penalizer_orchestrator)
        if info.penalizer_orchestrator.is_required:
            # On a decode worker a request goes on with a step that puts in the last token.
            end = -1 if batch.forward_mode.is_prebuilt() else None
            count_outputs(info.penalizer_orchestrator, [list(req.output_ids[:end]) for req in batch.reqs])
        return info

    @overrides("364edc7b1b463dd7", "a seed would be taken silently and change nothing")
    def merge_batch(self, other: SamplingBatchInfo) -> None:
        # Upstream joins the two only if both have seeds, so the rows of the one without get theirs first.
        for info, its_other in ((self, other), (other, self)):
            if info.sampling_seed is None and its_other.sampling_seed is not None:
                _set_seeds(info, [NO_SEED] * len(info))
        super().merge_batch(other)


def _set_seeds(info: upstream.SamplingBatchInfo, seeds: list[int]) -> None:
    info.sampling_seed = torch.tensor(seeds, dtype=torch.int64, device=info.temperatures.device)
