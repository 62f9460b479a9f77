"""x_n is prompt: on a decode worker it must not be penalized as output.

Target: ``sglang.srt.managers.schedule_batch.ScheduleBatch.cumulate_penalty_output_tokens``
Why: before a request has output, upstream counts the last prompt token instead. In a decode worker's first step that
    would count x_n for frequency, presence and repetition penalties and for ``min_new_tokens``.
How: the state of such rows is kept aside and put back after the original. With the overlap schedule the second step
    still shows no output although y_1 exists: then only the number of tokens counts.
    A method patch: three dozen modules import ``ScheduleBatch``.
Upstream: sglang/srt/managers/schedule_batch.py:2928 at 0.5.17, sglang/srt/sampling/penaltylib.
Remove when: upstream counts only output tokens there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.hand_off import is_fresh
from sglang_patches.disaggregation.role import is_decode_worker

if TYPE_CHECKING:
    import torch
    from sglang.srt.managers.schedule_batch import ScheduleBatch

TOKEN_STATE = (
    "cumulated_frequency_penalties",
    "cumulated_presence_penalties",
    "cumulated_repetition_penalties",
)
"""Attributes of penalizers that say which tokens were generated; (num_reqs, vocabulary)."""

COUNT_STATE = "len_output_tokens"
"""Attribute that says how many; (num_reqs, 1)."""

Kept = tuple["torch.Tensor", list[int], "torch.Tensor"]
"""A penalizer's state, its rows to keep, and what they hold."""


@wraps_upstream(
    "managers.schedule_batch:ScheduleBatch.cumulate_penalty_output_tokens",
    "ae2f1ad3f898b1f4",
    "x_n would be penalized as output",
)
def wrap_cumulate(original: Callable[[ScheduleBatch], None]) -> Callable[[ScheduleBatch], None]:
    def cumulate_penalty_output_tokens(self: ScheduleBatch) -> None:
        kept = list(_state_without_output(self)) if is_decode_worker() else []
        original(self)
        for state, rows, before in kept:
            state[rows] = before

    return cumulate_penalty_output_tokens


def _state_without_output(batch: ScheduleBatch) -> Iterator[Kept]:
    fresh = [i for i, req in enumerate(batch.reqs) if is_fresh(req)]
    # Where steps overlap, y_1 exists in the second step before it is read back: it is counted, but not known yet.
    at_first_step = [i for i in fresh if batch.reqs[i].decode_batch_idx == 0]
    for penalizer in batch.sampling_info.penalizer_orchestrator.penalizers.values():
        for name in (*TOKEN_STATE, COUNT_STATE):
            state = getattr(penalizer, name, None)
            rows = at_first_step if name == COUNT_STATE else fresh
            if state is not None and rows:
                yield state, rows, state[rows].clone()
