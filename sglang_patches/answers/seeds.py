"""Draws by seed: the same call with the same seed gets the same answer, whatever it is computed with.

Rows with a seed are drawn by Gumbel noise that is hashed from the seed, the position and the token: nothing of the rest
of the batch goes in. The first sample of a call draws by its seed itself, each further one by a seed made of it. What
is left is the logits: in another batch their last bits may differ, which changes a draw only where two tokens are
equally likely to within that.

``engine/sampling_batch`` gives each row of a batch its seed, ``engine/sampler`` draws, and ``engine/tokenizer_manager``
makes the seeds of further samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
    from torch import Tensor

NO_SEED = -(1 << 63)
"""In a row that has none; as a seed of a caller it is no different from the next one."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = (1 << 64) - 1
_UNIFORM_BITS = 52
"""So many that half a step more is exact, too."""


def _as_signed(word: int) -> int:
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def sample_seed(seed: int, index: int) -> int:
    """The seed of the sample number ``index`` of a call."""
    return _as_signed(seed + index * _GOLDEN)


def cut_probabilities(probs: Tensor, info: SamplingBatchInfo) -> Tensor:
    """Probabilities of what top-k, top-p and min-p leave, 0 elsewhere; as upstream's torch implementation cuts them.

    Shapes: [rows, vocabulary], in and out.
    """
    import torch

    ordered, index = probs.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(dim=-1) - ordered
    ranks = torch.arange(probs.shape[-1], device=probs.device).view(1, -1)
    is_kept = (ranks < info.top_ks.view(-1, 1)) & (before <= info.top_ps.view(-1, 1))
    is_kept &= ordered >= ordered[:, :1] * info.min_ps.view(-1, 1)
    return torch.zeros_like(probs).scatter_(-1, index, ordered * is_kept)


def draw(probs: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
    """One token per row, by Gumbel noise of its own.

    Shapes: probs [rows, vocabulary] (unnormalised), seeds and positions [rows]; returns [rows].
    """
    import torch

    # The largest of log p + Gumbel noise is a draw from p, and needs no sum over the row: what else is in the batch,
    # and how the kernel of a sum goes through it, changes nothing.
    tokens = torch.arange(probs.shape[-1], device=probs.device, dtype=torch.int64)
    # Two rounds, so that neighbouring seeds at neighbouring positions have nothing in common.
    rows = _hash(_hash(seeds) + positions.to(torch.int64) * _as_signed(_GOLDEN))
    words = _hash(rows.view(-1, 1) + tokens.view(1, -1) * _as_signed(_GOLDEN))
    # Never 0 and never 1, whose logarithms are infinite.
    uniform = ((words >> (64 - _UNIFORM_BITS)) & ((1 << _UNIFORM_BITS) - 1)).to(torch.float64) + 0.5
    gumbel = -torch.log(-torch.log(uniform / float(1 << _UNIFORM_BITS)))
    return torch.argmax(torch.log(probs.to(torch.float64)) + gumbel, dim=-1)


def _hash(words: Tensor) -> Tensor:
    """splitmix64's finaliser on 64-bit words, whose products wrap around."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        words = (words ^ _shift_right(words, shift)) * _as_signed(factor)
    return words ^ _shift_right(words, 31)


def _shift_right(words: Tensor, bits: int) -> Tensor:
    """Shifted right as if unsigned."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)
