"""Which requests of a pass have a second row: without SGLang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sglang_patches.prefill.kv_only import goes_on, with_ends

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch

PAIRED = "prefillshare_paired"
"""Attribute of a forward pass: numbers of its requests that have a second row. It is missing where none has."""


def paired_requests(batch: ScheduleBatch) -> list[int]:
    """Numbers of the batch's requests that have a second row in its next pass, rising."""
    if not batch.forward_mode.is_extend():
        return [number for number, req in enumerate(batch.reqs) if req.prefillshare.is_paired]
    return [number for number, (req, end) in enumerate(with_ends(batch)) if is_asked(req, end)]


def is_asked(req: Req, end: int) -> bool:
    """Whether the module of ``req`` is sampled from, or asked for scores, in a pass that computes up to ``end``.

    A chunk that ends before the last known token is followed by another one, and a call for a prefill only wants KV.
    """
    if not req.prefillshare.is_paired or goes_on(req, end):
        return False
    return bool(req.sampling_params.max_new_tokens != 0 or req.return_logprob)


def rows_of_decode(lora_ids: Sequence[str | None], paired: Sequence[int]) -> list[str | None]:
    """Adapter of each own row of a decode step: those with a second row are the prefill module's."""
    second = set(paired)
    return [None if number in second else lora_id for number, lora_id in enumerate(lora_ids)]
