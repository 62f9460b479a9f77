"""Penalties of several kinds have one order, whatever order a process has for them."""

from collections.abc import Sequence
from itertools import permutations
from types import SimpleNamespace

import pytest
import torch

from sglang_patches.patches.penalties import put_in_order

KINDS = ("BatchedFrequencyPenalizer", "BatchedPresencePenalizer", "BatchedRepetitionPenalizer")
LOGITS = ((1.0, 2.0, -1.0, 4.0),)


class Batch(SimpleNamespace):
    """What an orchestrator reads of a batch, to which it refers weakly."""


@pytest.mark.parametrize("kinds", permutations(KINDS))
def test_what_adds_comes_before_what_multiplies(kinds: Sequence[str]) -> None:
    from sglang.srt.sampling import penaltylib

    params = SimpleNamespace(frequency_penalty=0.5, presence_penalty=0.25, repetition_penalty=2.0)
    batch = Batch(reqs=[SimpleNamespace(sampling_params=params)], device="cpu")
    penalizers = [getattr(penaltylib, kind) for kind in kinds]
    orchestrator = penaltylib.BatchedPenalizerOrchestrator(vocab_size=4, batch=batch, penalizers=penalizers)
    put_in_order(orchestrator)
    for token in (1, 1, 2):
        orchestrator.cumulate_output_tokens(torch.tensor([token]))
    logits = torch.tensor(LOGITS)
    orchestrator.apply(logits)
    # (2 - 2 * 0.5 - 0.25) / 2 and (-1 - 0.5 - 0.25) * 2
    assert logits.tolist() == [[1.0, 0.375, -3.5, 4.0]]
