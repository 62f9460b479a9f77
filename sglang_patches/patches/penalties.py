"""Penalties know every token of the answer, the latest one included, and x_n is prompt; what adds comes before what
multiplies.

Target: ``sglang.srt.managers.schedule_batch.ScheduleBatch.cumulate_penalty_output_tokens``
Why: upstream counts a step's input as it prepares the step. Where steps overlap, the latest token is not known there
    yet: frequency, presence and repetition penalties and ``min_new_tokens`` hear of every token one step late, and of
    x_n as if it were output. Without overlap, x_n is counted in a decode worker's first step. And a request that comes
    back after a retraction begins with nothing counted. Without overlap, penalties act in the order of a set of
    classes, which is another one in each process: with a frequency and a repetition penalty, so is the answer.
How: where steps overlap, nothing is counted here. `count_inputs` does it when the step is launched: its input has then
    been read from what the step before has stashed, on the device, so nobody waits for anything. Without overlap the
    state of a decode worker's first rows is put back after the original. `count_outputs` counts what a request said
    before it was retracted, and `put_in_order` gives the penalties the order that they have where steps overlap;
    :mod:`sglang_patches.engine.sampling_batch` calls them for each new batch.
    A method patch: three dozen modules import ``ScheduleBatch``.
Upstream: sglang/srt/managers/schedule_batch.py:2928 at 0.5.17, sglang/srt/sampling/penaltylib.
Remove when: upstream counts only output tokens, and all of them, and has one order of penalties.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sglang_patches.declarations import wraps_upstream
from sglang_patches.disaggregation.hand_off import is_fresh
from sglang_patches.disaggregation.role import is_decode_worker

if TYPE_CHECKING:
    import torch
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch
    from sglang.srt.sampling.penaltylib.orchestrator import BatchedPenalizerOrchestrator

TOKEN_STATE = {
    "cumulated_frequency_penalties": "frequency_penalties",
    "cumulated_presence_penalties": "presence_penalties",
    "cumulated_repetition_penalties": "repetition_penalties",
}
"""Attributes of penalizers that say which tokens were generated, (num_reqs, vocabulary), and what one token is worth,
(num_reqs, 1)."""

_ADDS_UP = "cumulated_frequency_penalties"
"""Of these the one that counts a token each time."""

COUNT_STATE = "len_output_tokens"
"""Attribute that says how many; (num_reqs, 1)."""


@wraps_upstream(
    "managers.schedule_batch:ScheduleBatch.cumulate_penalty_output_tokens",
    "ae2f1ad3f898b1f4",
    "x_n would be penalized as output, and tokens one step late",
)
def wrap_cumulate(original: Callable[[ScheduleBatch], None]) -> Callable[[ScheduleBatch], None]:
    def cumulate_penalty_output_tokens(self: ScheduleBatch) -> None:
        if self.enable_overlap:
            return
        fresh = [row for row, req in enumerate(self.reqs) if is_fresh(req)] if is_decode_worker() else []
        with _left_as_they_are(self.sampling_info.penalizer_orchestrator, fresh):
            original(self)

    return cumulate_penalty_output_tokens


def count_inputs(batch: ScheduleBatch) -> bool:
    """Count what the requests that decode put into this step; return whether there was anything to count.

    Effects: changes the state of the penalizers, on the stream of the forward pass.
    """
    info = batch.sampling_info
    is_decoding = batch.forward_mode.is_decode() or batch.forward_mode.is_mixed()
    if info is None or not is_decoding or not info.penalizer_orchestrator.is_required:
        return False
    import torch

    # In a mixed batch the requests that decode come last.
    num_prefilled = len(batch.reqs) - len(batch.decoding_reqs or ()) if batch.forward_mode.is_mixed() else 0
    num_decoding = len(batch.reqs) - num_prefilled
    if not num_decoding:
        return False
    latest = torch.zeros(len(batch.reqs), dtype=torch.int64, device=batch.input_ids.device)
    latest[num_prefilled:] = batch.input_ids[-num_decoding:]
    silent = [row for row, req in enumerate(batch.reqs) if row < num_prefilled or _puts_in_prompt(req)]
    with _left_as_they_are(info.penalizer_orchestrator, silent):
        info.penalizer_orchestrator.cumulate_output_tokens(latest)
    return True


def _puts_in_prompt(req: Req) -> bool:
    """Whether the input of a request that decodes is x_n; its position counts as committed already."""
    return bool(req.kv_committed_len <= len(req.origin_input_ids))


def put_in_order(orchestrator: BatchedPenalizerOrchestrator) -> None:
    """Let what adds to logits go before what multiplies them, in one order.

    Effects: changes the orchestrator.
    """
    known = orchestrator.penalizers
    ordered = sorted(known, key=lambda kind: (kind.is_multiplicative, kind.__name__))
    orchestrator.penalizers = {kind: known[kind] for kind in ordered}


def count_outputs(orchestrator: BatchedPenalizerOrchestrator, outputs: Iterable[list[int]]) -> None:
    """Count what each request of a new batch said before it was retracted.

    Effects: changes the state of the penalizers.
    """
    import torch

    for row, tokens in enumerate(outputs):
        if not tokens:
            continue
        said = torch.tensor(tokens, dtype=torch.int64, device=orchestrator.device)
        for penalizer in orchestrator.penalizers.values():
            for name, worth in TOKEN_STATE.items():
                if (state := getattr(penalizer, name, None)) is not None:
                    values = getattr(penalizer, worth)[row].expand(len(said))
                    (state[row].scatter_add_ if name == _ADDS_UP else state[row].scatter_)(0, said, values)
            if (count := getattr(penalizer, COUNT_STATE, None)) is not None:
                count[row] = len(said)


@contextmanager
def _left_as_they_are(orchestrator: BatchedPenalizerOrchestrator, rows: list[int]) -> Iterator[None]:
    """Put the state of these rows back at the end."""
    kept = list(_state_of(orchestrator, rows)) if rows else []
    yield
    for state, before in kept:
        state[rows] = before


def _state_of(
    orchestrator: BatchedPenalizerOrchestrator, rows: list[int]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    for penalizer in orchestrator.penalizers.values():
        for name in (*TOKEN_STATE, COUNT_STATE):
            if (state := getattr(penalizer, name, None)) is not None:
                yield state, state[rows].clone()


RELIED_ON = {
    "managers.overlap_utils:resolve_forward_inputs": (
        "8695d5fc8396e452",
        "where the input of a step comes from, before it is counted",
    )
}
