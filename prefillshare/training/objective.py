"""Cache-conditioned fine-tuning, and the ordinary objective it is compared with.

A decode module is trained to answer over KV that the frozen prefill module made. For a prompt x_1..x_n with the
answer y_1..y_m, positions 1..n-1 are the prefill module's; x_n and the answer are the decode module's:

    tokens      x_1 ... x_{n-1} | x_n  y_1 ... y_{m-1}        (y_m is only a target)
    weights of  prefill module  | decode module
    targets                     | y_1  y_2 ... y_m

A conversation holds several answers; each is a segment of its own, and everything before a segment, earlier answers
included, is prompt. So one pass of the prefill module over the whole conversation gives the KV of every prompt at
once, and one pass of the decode module over all segments side by side gives the loss. A mask keeps them apart: a
query of segment s sees prefill KV of positions before x_n of s, and the queries of s up to itself, nothing else.
This is exact, not an approximation: `tests/training/test_objective.py` compares it with one pass per segment.

Which tokens are targets stands in `Batch.weights`: a run of positive weights is one segment.

Source: arXiv 2602.12029, section 3; the boundary at x_n follows the serving path, which recomputes the last token.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prefillshare.errors import TrainingError
from prefillshare.training.batch import Batch

Objective = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """All answers of a batch, side by side per conversation.

    Shapes: B conversations with at most Q queries each; T tokens per conversation.
    """

    inputs: Tensor
    """Token fed at each query [B, Q]: x_n, y_1..y_{m-1} of each segment in turn."""
    targets: Tensor
    """Token to predict at each query [B, Q]."""
    weights: Tensor
    """Weight of each target [B, Q]; 0 at padding."""
    positions: Tensor
    """Position in the conversation of each query [B, Q]."""
    mask: Tensor
    """What each query may see [B, 1, Q, T + Q], true = visible: T keys of the prefill module, then the queries."""


def cache_conditioned_loss(model: nn.Module, batch: Batch, *, prefill_model: nn.Module | None = None) -> Tensor:
    """Mean loss of the answers over the prefill module's KV.

    `model` is the decode module. Without `prefill_model`, it must be a PEFT model, and the prefill module is the
    same model with its adapter off.
    """
    segments = segments_of(batch)
    cache = prefill_cache(model if prefill_model is None else prefill_model, batch.tokens)
    logits = model(
        input_ids=segments.inputs,
        position_ids=segments.positions,
        attention_mask=segments.mask,
        past_key_values=cache,
        use_cache=True,
    ).logits
    return weighted_cross_entropy(logits, segments.targets, segments.weights)


def ordinary_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Mean loss of the weighted tokens when the model makes all KV itself: full fine-tuning and pretraining."""
    logits = model(input_ids=batch.tokens, use_cache=False).logits
    return weighted_cross_entropy(logits[:, :-1], batch.tokens[:, 1:], batch.weights[:, 1:])


@torch.no_grad()
def prefill_cache(model: nn.Module, tokens: Tensor) -> Any:
    """KV of right-padded tokens [B, T] by the prefill module, without gradient, as a transformers cache."""
    disable_adapter = getattr(model, "disable_adapter", None)
    with disable_adapter() if disable_adapter is not None else nullcontext():
        return model(input_ids=tokens, use_cache=True, logits_to_keep=1).past_key_values


def weighted_cross_entropy(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean of the token losses, computed in float32 at least."""
    chosen = weights > 0
    picked = logits[chosen]
    picked = picked.float() if picked.dtype in (torch.bfloat16, torch.float16) else picked
    losses = F.cross_entropy(picked, targets[chosen], reduction="none")
    return (losses * weights[chosen]).sum() / weights[chosen].sum()


def segment_bounds(weights: Tensor) -> list[tuple[int, int]]:
    """Runs of positive weight in one conversation [T] as (first target, one past the last target)."""
    edges = torch.diff(
        (weights > 0).int(), prepend=torch.zeros(1, dtype=torch.int), append=torch.zeros(1, dtype=torch.int)
    )
    starts, ends = (edges == 1).nonzero().flatten().tolist(), (edges == -1).nonzero().flatten().tolist()
    return list(zip(starts, ends, strict=True))


def segments_of(batch: Batch) -> Segments:
    """Lay out the answers of a batch for one pass of the decode module.

    Raises: TrainingError when a conversation has no target, or its first token is one.
    """
    bounds = [segment_bounds(row) for row in batch.weights]
    _check(bounds)
    num_rows, num_tokens = batch.tokens.shape
    num_queries = max(sum(end - first for first, end in row) for row in bounds)
    positions = torch.zeros(num_rows, num_queries, dtype=torch.long)
    # Queries of one segment share a number and the length of the prefill KV they see; padding sees only itself.
    numbers = -1 - torch.arange(num_queries).repeat(num_rows, 1)
    visible = torch.zeros(num_rows, num_queries, dtype=torch.long)
    for row, spans in enumerate(bounds):
        at = 0
        for number, (first, end) in enumerate(spans):
            span = slice(at, at + end - first)
            positions[row, span] = torch.arange(first - 1, end - 1)
            numbers[row, span] = number
            visible[row, span] = first - 1
            at = span.stop
    is_query = numbers >= 0
    return Segments(
        inputs=batch.tokens.gather(1, positions),
        targets=batch.tokens.gather(1, (positions + 1).clamp(max=num_tokens - 1)),
        weights=batch.weights.gather(1, (positions + 1).clamp(max=num_tokens - 1)) * is_query,
        positions=positions,
        mask=_mask(numbers, visible, num_tokens),
    )


def _mask(numbers: Tensor, visible: Tensor, num_tokens: int) -> Tensor:
    num_queries = numbers.shape[1]
    of_prefill = torch.arange(num_tokens) < visible[:, :, None]
    is_same = numbers[:, :, None] == numbers[:, None, :]
    is_past = torch.ones(num_queries, num_queries, dtype=torch.bool).tril()
    return torch.cat((of_prefill, is_same & is_past), dim=2)[:, None]


def _check(bounds: list[list[tuple[int, int]]]) -> None:
    for row, spans in enumerate(bounds):
        if not spans:
            raise TrainingError(f"conversation {row} of the batch has no target token: give its answers a weight")
        if spans[0][0] == 0:
            raise TrainingError(f"conversation {row} of the batch starts with a target: it needs a prompt before it")
