"""Greedy decoding as the serving path does it, in plain transformers: the yardstick for modules and for the engine."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from prefillshare.modules.manifest import KvRule
from prefillshare.training.batch import Batch, make_batch
from prefillshare.training.objective import adapter_off, prefill_cache


@dataclass(frozen=True, slots=True)
class _Own:
    """What the decode module computes of its prompts: all from the boundary on, x_n in the last column.

    Shapes: B prompts, Q columns.
    """

    tokens: Tensor
    """Token ids [B, Q], padded on the left."""
    positions: Tensor
    """Position of each in its prompt [B, Q]; 0 where there is none."""
    is_there: Tensor
    """Which are tokens and not padding [B, Q]."""


class _Steps(Protocol):
    """The module at work on a batch of prompts: tokens [B, 1] out, and in again at the next step."""

    def begin(self) -> Tensor:
        """The first token of each answer."""

    def go_on(self, tokens: Tensor, step: int) -> Tensor:
        """The token behind `tokens`, which are the answers' tokens number `step`, counted from 0."""


@torch.no_grad()
def decode(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_token: int | Collection[int],
    prefill_model: nn.Module | None = None,
    sharing_ratio: float = 1.0,
    kv_rule: KvRule = "own-answers",
) -> list[list[int]]:
    """Answers (without an end token) to prompts x_1..x_n: x_1..x_{n-1} by the prefill module, the rest by `model`.

    The prefill module is `prefill_model`, or else `model` with its adapter off. Of x_1..x_{n-1}, only the first
    `sharing_ratio` (rounded down) are the prefill module's, as in `training.layout`: 1 is serving, with 0 the module
    makes all of its KV itself, as an ordinary fine-tuned model does. Under the rule "all-base" KV of every position is
    the prefill module's, and there is no ratio.
    """
    prefill = model if prefill_model is None else prefill_model
    batch = make_batch([(prompt, [0.0] * len(prompt)) for prompt in prompts])
    steps: _Steps
    if kv_rule == "all-base":
        steps = _AllBase(model, prefill, batch)
    else:
        steps = _OwnAnswers(model, prefill, batch, sharing_ratio)
    ends = torch.tensor([end_token] if isinstance(end_token, int) else sorted(end_token))
    return _run(steps, len(prompts), max_new_tokens, ends)


def _run(steps: _Steps, num_prompts: int, max_new_tokens: int, ends: Tensor) -> list[list[int]]:
    tokens = steps.begin()
    answers: list[list[int]] = [[] for _ in range(num_prompts)]
    is_open = torch.ones(num_prompts, dtype=torch.bool)
    for step in range(max_new_tokens):
        is_open &= ~torch.isin(tokens[:, 0], ends)
        for row in is_open.nonzero().flatten().tolist():
            answers[row].append(int(tokens[row, 0]))
        if not is_open.any() or step + 1 == max_new_tokens:
            break
        # Answers that have ended go on being computed, unread, until the last one ends.
        tokens = steps.go_on(tokens, step)
    return answers


class _OwnAnswers:
    """KV of the prompt is the prefill module's, that of x_n and the answer the module's own.

    Columns of the cache and of every mask, for B prompts with T = num_shared, the longest boundary:

      0 ... T - 1          T ... T + Q - 1                        then one per step
      prefill module's     decode module's, x_n in the last one   decode module's

    The T columns of a prompt with a smaller boundary also hold tokens behind it, or padding. No query of that prompt
    sees them, and KV before the boundary does not depend on them.
    """

    def __init__(self, model: nn.Module, prefill: nn.Module, batch: Batch, sharing_ratio: float) -> None:
        self._model, self._lengths = model, batch.lengths
        boundaries = (sharing_ratio * (batch.lengths - 1).double()).long()
        num_shared = int(boundaries.max())
        self._cache = _compute_shared_kv(prefill, batch.tokens[:, :num_shared])
        self._own = _cut_own_part(batch, boundaries)
        self._visible = torch.cat((torch.arange(num_shared) < boundaries[:, None], self._own.is_there), dim=1)

    def begin(self) -> Tensor:
        own = self._own
        mask = _build_first_mask(self._visible, own)
        return _compute_next(self._model, own.tokens, own.positions, mask, self._cache)

    def go_on(self, tokens: Tensor, step: int) -> Tensor:
        self._visible = torch.cat((self._visible, torch.ones_like(tokens, dtype=torch.bool)), dim=1)
        # y_1 stands behind x_n, at position n counted from 0, whatever column it has.
        positions = self._lengths[:, None] + step
        return _compute_next(self._model, tokens, positions, self._visible[:, None, None], self._cache)


class _AllBase:
    """KV of every position is the prefill module's; the module only asks, at the last position.

    Columns of the cache: the prompts, padded on the right, then one per step. A token goes through the prefill module
    first, so that the module finds the KV of its own position there.
    """

    def __init__(self, model: nn.Module, prefill: nn.Module, batch: Batch) -> None:
        self._model, self._prefill, self._batch = model, prefill, batch
        self._cache = prefill_cache(prefill, batch.tokens.to(_device(prefill)))
        self._visible = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]

    def begin(self) -> Tensor:
        last = self._batch.lengths[:, None] - 1
        return self._ask(self._batch.tokens.gather(1, last), last)

    def go_on(self, tokens: Tensor, step: int) -> Tensor:
        self._visible = torch.cat((self._visible, torch.ones_like(tokens, dtype=torch.bool)), dim=1)
        positions = self._batch.lengths[:, None] + step
        with adapter_off(self._prefill):
            _compute_next(self._prefill, tokens, positions, self._visible[:, None, None], self._cache)
        return self._ask(tokens, positions)

    def _ask(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return _compute_next(self._model, tokens, positions, self._visible[:, None, None], _read_only(self._cache))


def _read_only(cache: Any) -> Any:
    """A transformers cache in which a pass finds what `cache` holds, and its own keys and values are dropped."""
    from transformers import DynamicCache

    class ReadOnlyCache(DynamicCache):
        def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
            layer: Any = cache.layers[layer_idx]
            return layer.keys, layer.values

    return ReadOnlyCache()


def _compute_shared_kv(prefill_model: nn.Module, tokens: Tensor) -> Any:
    if tokens.shape[1] > 0:
        return prefill_cache(prefill_model, tokens.to(_device(prefill_model)))
    from transformers import DynamicCache

    return DynamicCache()


def _cut_own_part(batch: Batch, boundaries: Tensor) -> _Own:
    # Padded on the left, so that x_n is the last column of every row and its logits are the first answer token's.
    width = int((batch.lengths - boundaries).max())
    positions = batch.lengths[:, None] - width + torch.arange(width)
    is_there = positions >= boundaries[:, None]
    positions = torch.where(is_there, positions, 0)
    return _Own(batch.tokens.gather(1, positions), positions, is_there)


def _build_first_mask(visible: Tensor, own: _Own) -> Tensor:
    """Who sees whom in the first pass [B, 1, Q, T + Q], true = visible."""
    width = own.tokens.shape[1]
    num_shared = visible.shape[1] - width
    is_before = torch.ones(width, width, dtype=torch.bool).tril()
    shared = visible[:, None, :num_shared].expand(-1, width, -1)
    # Padding sees itself, so that no row of scores is empty.
    among = (own.is_there[:, None] & is_before) | torch.eye(width, dtype=torch.bool)
    return torch.cat((shared, among), dim=2)[:, None]


def _compute_next(model: nn.Module, tokens: Tensor, positions: Tensor, mask: Tensor, cache: object) -> Tensor:
    device = _device(model)
    logits = model(
        input_ids=tokens.to(device),
        position_ids=positions.to(device),
        attention_mask=mask.to(device),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    return logits[:, -1].argmax(dim=-1, keepdim=True).cpu()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
