"""Codebooks for a weight by weighted k-means, and the codes and scales that go with them.

The error that counts is that of the product: a weight's square error times the mean square of its input. Scales make
the segments of all rows alike; k-means runs over a sample of them, then every segment gets its nearest entry and every
scale is fitted anew. With several codebooks each is fitted to what the others leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prefillshare.codebook.kernels.nearest import find_nearest
from prefillshare.codebook.reference import CodebookWeight
from prefillshare.codebook.shape import CodebookShape


@dataclass(frozen=True, slots=True, kw_only=True)
class Clustering:
    """How codebooks are searched."""

    num_samples: int = 1 << 16
    """Segments that k-means runs over."""
    num_rounds: int = 25
    """Rounds of k-means."""
    num_refits: int = 2
    """How often several codebooks are fitted anew, each to what the others leave."""
    seed: int = 0
    """Seed of the sample."""


def quantise(
    weights: Sequence[Tensor], moments: Tensor | None, shape: CodebookShape, how: Clustering
) -> list[CodebookWeight]:
    """Quantise weights [outputs, inputs] that read the same input, with the same codebooks.

    `moments` [inputs] is the mean square of each input; None counts all alike.
    """
    rows = torch.cat([weight.float() for weight in weights])
    importance = torch.ones(rows.shape[1]) if moments is None else _bounded(moments.float())
    scales = _first_scales(rows, shape)
    segments = (rows / _spread(scales, shape)).reshape(-1, shape.segment)
    codebooks = _fit(segments, _segment_importance(scales, importance, shape), shape, how)
    codes = assign(segments, _segment_importance(scales, importance, shape), codebooks)
    scales = _fit_scales(rows, codes, codebooks, importance, shape)
    codes = codes.reshape(rows.shape[0], -1, shape.num_codebooks)
    sizes = [weight.shape[0] for weight in weights]
    return [
        CodebookWeight(codes=part.contiguous(), codebooks=codebooks.half(), scales=scale.half().contiguous())
        for part, scale in zip(codes.split(sizes), scales.split(sizes), strict=True)
    ]


def round_to_nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    """The weight with each number rounded to one of 2^bits evenly spaced ones of its group."""
    groups = weight.float().reshape(weight.shape[0], -1, group)
    low, high = groups.amin(-1, keepdim=True), groups.amax(-1, keepdim=True)
    step = ((high - low) / (2**bits - 1)).clamp(min=1e-12)
    return (((groups - low) / step).round() * step + low).reshape(weight.shape)


def assign(segments: Tensor, importance: Tensor, codebooks: Tensor) -> Tensor:
    """The codes uint8 [segments, m] of the entries whose sum is nearest, one codebook after the other."""
    codes = torch.empty((len(segments), len(codebooks)), dtype=torch.uint8)
    rest = segments.clone()
    for i, codebook in enumerate(codebooks):
        nearest = _nearest(rest, importance, codebook)
        codes[:, i] = nearest.to(torch.uint8)
        rest -= codebook[nearest]
    return codes


def _bounded(moments: Tensor) -> Tensor:
    # An input that calibration never saw still has a weight; one that is always huge does not count for all.
    mean = moments.mean().clamp(min=1e-12)
    return (moments / mean).clamp(1e-2, 1e3)


def _first_scales(rows: Tensor, shape: CodebookShape) -> Tensor:
    groups = rows.reshape(rows.shape[0], -1, shape.group)
    return groups.pow(2).mean(-1).sqrt().clamp(min=1e-7)


def _spread(scales: Tensor, shape: CodebookShape) -> Tensor:
    return scales.repeat_interleave(shape.group, dim=1)


def _segment_importance(scales: Tensor, importance: Tensor, shape: CodebookShape) -> Tensor:
    return (_spread(scales, shape).pow(2) * importance).reshape(-1, shape.segment)


def _nearest(segments: Tensor, importance: Tensor, codebook: Tensor) -> Tensor:
    nearest = torch.empty(len(segments), dtype=torch.int64)
    entries = codebook.T.contiguous()
    find_nearest(segments.contiguous().numpy(), importance.contiguous().numpy(), entries.numpy(), nearest.numpy())
    return nearest


def _fit(segments: Tensor, importance: Tensor, shape: CodebookShape, how: Clustering) -> Tensor:
    generator = torch.Generator().manual_seed(how.seed)
    chosen = torch.randperm(len(segments), generator=generator)[: how.num_samples]
    sample, weight = segments[chosen], importance[chosen]
    codebooks = torch.zeros(shape.num_codebooks, shape.num_entries, shape.segment)
    found = torch.zeros(shape.num_codebooks, *sample.shape)
    for round_ in range(1 if shape.num_codebooks == 1 else 1 + how.num_refits):
        for i in range(shape.num_codebooks):
            rest = sample - found.sum(0) + found[i]
            start = None if round_ == 0 else codebooks[i]
            codebooks[i] = _k_means(rest, weight, shape.num_entries, start, how.num_rounds, generator)
            found[i] = codebooks[i][_nearest(rest, weight, codebooks[i])]
    return codebooks


def _k_means(
    sample: Tensor, weight: Tensor, num_entries: int, start: Tensor | None, num_rounds: int, generator: torch.Generator
) -> Tensor:
    codebook = _first_entries(sample, num_entries, generator) if start is None else start.clone()
    for _ in range(num_rounds):
        nearest = _nearest(sample, weight, codebook)
        total = torch.zeros_like(codebook).index_add_(0, nearest, weight)
        mean = torch.zeros_like(codebook).index_add_(0, nearest, weight * sample) / total.clamp(min=1e-20)
        is_used = torch.bincount(nearest, minlength=num_entries) > 0
        codebook = torch.where(is_used.unsqueeze(1), mean, _farthest(sample, weight, codebook, nearest, ~is_used))
    return codebook


def _first_entries(sample: Tensor, num_entries: int, generator: torch.Generator) -> Tensor:
    chosen = torch.randint(len(sample), (num_entries,), generator=generator)
    return sample[chosen].clone()


def _farthest(sample: Tensor, weight: Tensor, codebook: Tensor, nearest: Tensor, is_free: Tensor) -> Tensor:
    """The codebook with entries that no segment is nearest to moved to the segments with the largest errors."""
    moved = codebook.clone()
    num_free = min(int(is_free.sum()), len(sample))
    if num_free:
        errors = (weight * (sample - codebook[nearest]).pow(2)).sum(1)
        moved[is_free.nonzero().flatten()[:num_free]] = sample[errors.topk(num_free).indices]
    return moved


def _fit_scales(rows: Tensor, codes: Tensor, codebooks: Tensor, importance: Tensor, shape: CodebookShape) -> Tensor:
    """The scales with the least error for these codes, group by group."""
    found = sum(codebooks[i][codes[:, i].int()] for i in range(len(codebooks)))
    assert isinstance(found, Tensor)
    groups = found.reshape(rows.shape[0], -1, shape.group)
    weight = importance.reshape(1, -1, shape.group)
    both = (weight * groups * rows.reshape(groups.shape)).sum(-1)
    return both / (weight * groups.pow(2)).sum(-1).clamp(min=1e-20)
