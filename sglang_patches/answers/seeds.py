"""``seed`` is honoured: the same call with the same seed gets the same answer, whatever it is computed with.

Target: ``from_schedule_batch`` and ``merge_batch`` of ``sglang.srt.sampling.sampling_batch_info.SamplingBatchInfo``,
    ``sglang.srt.layers.sampler.Sampler._sample_from_probs``, and
    ``sglang.srt.managers.tokenizer_manager.TokenizerManager._send_one_request``
Why: SGLang reads seeds only in its deterministic mode, which needs kernels of its own and slows all calls; elsewhere
    it takes them silently. The samples of one call (n > 1) all have the same seed.
How: a batch that holds a seed knows one for each row. After the draw, rows with a seed are drawn again, by Gumbel noise
    that is hashed from the seed, the position and the token: nothing of the rest of the batch goes in. The first sample
    of a call draws by its seed itself, each further one by a seed made of it. Without seeds nothing is done. What is
    left is the logits: in another batch their last bits may differ, which changes a draw only where two tokens are
    equally likely to within that.
Upstream: sglang/srt/sampling/sampling_batch_info.py:87,389, sglang/srt/layers/sampler.py:246 and
    sglang/srt/managers/tokenizer_manager.py:1540 at 0.5.17.
Remove when: upstream draws by seed without its deterministic mode.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

NO_SEED = -(1 << 63)
"""In a row that has none; as a seed of a caller it is no different from the next one."""

_GOLDEN = 0x9E3779B97F4A7C15
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_WORD = (1 << 64) - 1
_UNIFORM_BITS = 52
"""So many that half a step more is exact, too."""


def _signed(word: int) -> int:
    word &= _WORD
    return word - (1 << 64) if word >> 63 else word


def sample_seed(seed: int, index: int) -> int:
    """The seed of the sample number ``index`` of a call."""
    return _signed(seed + index * _GOLDEN)


def wrap_from_schedule_batch(original: Callable[..., Any]) -> Callable[..., Any]:
    def from_schedule_batch(cls: Any, batch: Any, vocab_size: int) -> Any:
        info = original(cls, batch, vocab_size)
        seeds = [req.sampling_params.sampling_seed for req in batch.reqs]
        if info.sampling_seed is None and any(seed is not None for seed in seeds):
            info.sampling_seed = _seeds([NO_SEED if seed is None else max(seed, NO_SEED + 1) for seed in seeds], info)
        return info

    return from_schedule_batch


def _seeds(values: list[int], info: Any) -> Any:
    import torch

    return torch.tensor(values, dtype=torch.int64, device=info.temperatures.device)


def wrap_merge_batch(original: Callable[..., None]) -> Callable[..., None]:
    def merge_batch(self: Any, other: Any) -> None:
        # Upstream joins the two only if both have seeds, so the rows of the one without get theirs first.
        for one, its_other in ((self, other), (other, self)):
            if one.sampling_seed is None and its_other.sampling_seed is not None:
                one.sampling_seed = _seeds([NO_SEED] * len(one), one)
        original(self, other)

    return merge_batch


def wrap_sample_from_probs(original: Callable[..., Any]) -> Callable[..., Any]:
    def _sample_from_probs(self: Any, probs: Any, sampling_info: Any, positions: Any, simple: bool) -> Any:
        seeds = sampling_info.sampling_seed
        if seeds is None or self.enable_deterministic:
            return original(self, probs, sampling_info, positions, simple)
        import torch

        sampling_info.sampling_seed = None  # else upstream would look for its own kernels
        try:
            drawn = original(self, probs, sampling_info, positions, simple)
        finally:
            sampling_info.sampling_seed = seeds
        again = draw(probs if simple else kept(probs, sampling_info), seeds, positions)
        return torch.where(seeds == NO_SEED, drawn, again.to(drawn.dtype))

    return _sample_from_probs


def kept(probs: Any, info: Any) -> Any:
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


def draw(probs: Any, seeds: Any, positions: Any) -> Any:
    """One token per row, by Gumbel noise of its own.

    Shapes: probs [rows, vocabulary] (unnormalised), seeds and positions [rows]; returns [rows].
    """
    import torch

    tokens = torch.arange(probs.shape[-1], device=probs.device, dtype=torch.int64)
    rows = _hash(_hash(seeds) + positions.to(torch.int64) * _signed(_GOLDEN))
    words = _hash(rows.view(-1, 1) + tokens.view(1, -1) * _signed(_GOLDEN))
    # Never 0 and never 1, whose logarithms are infinite.
    uniform = ((words >> (64 - _UNIFORM_BITS)) & ((1 << _UNIFORM_BITS) - 1)).to(torch.float64) + 0.5
    gumbel = -torch.log(-torch.log(uniform / float(1 << _UNIFORM_BITS)))
    return torch.argmax(torch.log(probs.to(torch.float64)) + gumbel, dim=-1)


def _hash(words: Any) -> Any:
    """splitmix64's finaliser on 64-bit words, whose products wrap around."""
    for shift, factor in zip((30, 27), _MIX, strict=True):
        words = (words ^ _shifted(words, shift)) * _signed(factor)
    return words ^ _shifted(words, 31)


def _shifted(words: Any, bits: int) -> Any:
    """Shifted right as if unsigned."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def wrap_send_one_request(original: Callable[..., None]) -> Callable[..., None]:
    def _send_one_request(self: Any, tokenized_obj: Any) -> None:
        params = tokenized_obj.sampling_params
        logical = self.rid_to_state.get(self.child_rid_to_logical_rid.get(tokenized_obj.rid))
        # A call for several samples first computes its prompt, as a call for no token.
        if logical is not None and params.sampling_seed is not None and params.max_new_tokens != 0:
            index = getattr(logical, "prefillshare_num_samples", 0)
            logical.prefillshare_num_samples = index + 1
            tokenized_obj.sampling_params = copy.copy(params)
            tokenized_obj.sampling_params.sampling_seed = sample_seed(params.sampling_seed, index)
        original(self, tokenized_obj)

    return _send_one_request
