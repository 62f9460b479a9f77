"""Padded batches of token documents."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from prefillshare.training.shard import WEIGHT_UNIT, Shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Right-padded documents.

    Shapes: B documents of at most T tokens.
    """

    tokens: Tensor
    """Token ids [B, T]; padding is 0 and weighs nothing."""
    weights: Tensor
    """Weight of each token when it is the target [B, T], float32."""
    lengths: Tensor
    """Tokens of each document [B]."""

    @property
    def num_tokens(self) -> int:
        return int(self.lengths.sum())


def make_batch(documents: Sequence[tuple[Sequence[int] | np.ndarray, Sequence[float] | np.ndarray]]) -> Batch:
    """Pad (tokens, weights) pairs to the longest."""
    lengths = [len(tokens) for tokens, _ in documents]
    tokens = torch.zeros(len(documents), max(lengths), dtype=torch.long)
    weights = torch.zeros(len(documents), max(lengths))
    for row, (ids, loss_weights) in enumerate(documents):
        tokens[row, : len(ids)] = torch.as_tensor(np.asarray(ids, dtype=np.int64))
        weights[row, : len(ids)] = torch.as_tensor(np.asarray(loss_weights, dtype=np.float32))
    return Batch(tokens=tokens, weights=weights, lengths=torch.tensor(lengths))


def batch_of(shard: Shard, indices: Sequence[int]) -> Batch:
    """The given documents of a shard."""
    documents = [shard.document(index) for index in indices]
    return make_batch([(tokens, weights / WEIGHT_UNIT) for tokens, weights in documents])
