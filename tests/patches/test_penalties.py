"""Penalties of several kinds have one order, whatever order a process has for them."""

from collections.abc import Sequence
from functools import partial
from itertools import permutations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sglang_patches.patches.penalties import put_in_order

KINDS = ("BatchedFrequencyPenalizer", "BatchedPresencePenalizer", "BatchedRepetitionPenalizer")
LOGITS = ((1.0, 2.0, -1.0, 4.0),)
PENALIZED = ((1.0, 0.375, -3.5, 4.0),)
"""After tokens 1, 1 and 2: (2 - 2 * 0.5 - 0.25) / 2 and (-1 - 0.5 - 0.25) * 2."""
PENALTIES = {"frequency_penalty": 0.5, "presence_penalty": 0.25, "repetition_penalty": 2.0}


class Batch(SimpleNamespace):
    """What SGLang reads of a batch, to which an orchestrator refers weakly."""


@pytest.mark.parametrize("kinds", permutations(KINDS))
def test_what_adds_comes_before_what_multiplies(kinds: Sequence[str]) -> None:
    from sglang.srt.sampling import penaltylib

    batch = Batch(reqs=[SimpleNamespace(sampling_params=SimpleNamespace(**PENALTIES))], device="cpu")
    penalizers = [getattr(penaltylib, kind) for kind in kinds]
    orchestrator = penaltylib.BatchedPenalizerOrchestrator(vocab_size=4, batch=batch, penalizers=penalizers)
    put_in_order(orchestrator)
    for token in (1, 1, 2):
        orchestrator.cumulate_output_tokens(torch.tensor([token]))
    logits = torch.tensor(LOGITS)
    orchestrator.apply(logits)
    assert logits.tolist() == [list(row) for row in PENALIZED]


@pytest.mark.parametrize("kinds", permutations(KINDS))
def test_rows_keep_the_order_when_they_join_a_batch_that_has_no_penalties(
    kinds: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of such a batch is made before anybody wants it, and outlives its first rows."""
    from sglang.srt.sampling import sampling_batch_info as upstream

    from sglang_patches.engine.sampling_batch import SamplingBatchInfo

    penaltylib = upstream.penaltylib
    ordered = partial(penaltylib.BatchedPenalizerOrchestrator, penalizers=[getattr(penaltylib, kind) for kind in kinds])
    monkeypatch.setattr(penaltylib, "BatchedPenalizerOrchestrator", lambda *, penalizers, **rest: ordered(**rest))
    monkeypatch.setattr(upstream, "get_server_args", lambda: None)
    off = SimpleNamespace(enable_deterministic_inference=False, enable_custom_logit_processor=False)
    monkeypatch.setattr(upstream, "get_exec", lambda: SimpleNamespace(deterministic=off, features=off))

    running, coming = _batch(), _batch(**PENALTIES)
    joined = SamplingBatchInfo.from_schedule_batch(running, vocab_size=4)
    joined.merge_batch(SamplingBatchInfo.from_schedule_batch(coming, vocab_size=4))
    for token in (1, 1, 2):
        joined.penalizer_orchestrator.cumulate_output_tokens(torch.tensor([token, token]))
    logits = torch.tensor(LOGITS * 2)
    joined.penalizer_orchestrator.apply(logits)
    assert logits.tolist() == [list(row) for row in LOGITS + PENALIZED]


def _batch(**penalties: float) -> Any:
    """One request that begins."""
    from sglang.srt.model_executor.forward_batch_info import ForwardMode
    from sglang.srt.sampling.sampling_params import SamplingParams

    req = SimpleNamespace(sampling_params=SamplingParams(**penalties), output_ids=[], return_sampling_mask=False)
    return Batch(reqs=[req], device="cpu", forward_mode=ForwardMode.EXTEND)
