"""A batch with second rows: the forward pass of requests whose module reads base-made KV only.

All tokens of such a request are the prefill module's (``boundary`` is ``ALL_BASE_MADE``), and their KV is kept like
that of a prompt. The token that is sampled from is computed once more, with the adapter: same input, same position,
same context, its own position's base-made key and value among it. That row gives the logits and keeps nothing.

    tokens of a pass   | request 0 ....... | request 1 | request 2 ...... | again: last of 0 | last of 2 |
    weights            | prefill module (ordinary modules: as ever)       | adapter of 0     | of 2      |
    KV written to      | the rows that the scheduler gave out             | nowhere (the padding slot 0) |
                         0 .............................. num_own_tokens-1  num_own_tokens ...

The scheduler and the sampler see the batch without the second rows: they are added when the pass begins
(:mod:`sglang_patches.engine.model_runner`) and go before the LM head (``keep_one_state_per_request``), so penalties,
grammars, log-probabilities and samples need to know nothing of them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import torch
from sglang.srt.model_executor.forward_batch_info import ForwardBatch, ForwardMode
from torch import Tensor


@dataclasses.dataclass(kw_only=True)
class PairedForwardBatch(ForwardBatch):
    """A forward pass over own rows and, behind them, second rows.

    Attention looks at ``own`` and ``second``; what goes by tokens (embeddings, positions) is the batch's own.
    """

    own: ForwardBatch
    """The batch as the scheduler made it."""
    second: ForwardBatch
    """The second rows, as a decode step that reads the KV which ``own`` completes."""
    paired: Sequence[int]
    """Number of the request of each second row, rising."""
    last_tokens: Tensor
    """Index of the same token among the own ones (second rows,)."""

    @functools.cached_property
    def second_rows(self) -> Tensor:
        """In a decode step, index of each request's second row among all, or -1 (requests,)."""
        rows = torch.full_like(self.own.seq_lens, -1)
        rows[self.last_tokens] = torch.arange(self.num_own_tokens, self.num_token_non_padded_cpu, device=rows.device)
        return rows

    @property
    def num_own_tokens(self) -> int:
        return self.num_token_non_padded_cpu - len(self.paired)


def add_second_rows(batch: ForwardBatch, paired: Sequence[int]) -> PairedForwardBatch:
    """The pass with the second rows of these requests."""
    rows = torch.tensor(paired, dtype=torch.int64).to(batch.seq_lens.device, non_blocking=True)
    last = rows if batch.forward_mode.is_decode() else _last_tokens(batch).index_select(0, rows)
    second = _second_rows(batch, paired, rows, last)
    known = {field.name: getattr(batch, field.name) for field in dataclasses.fields(batch)}
    whole: dict[str, Any] = {
        name: torch.cat((getattr(batch, name), getattr(second, name)))
        for name in ("input_ids", "positions", "out_cache_loc", "req_pool_indices", "seq_lens", "seq_lens_cpu")
    }
    num_tokens = len(whole["input_ids"])
    whole |= {
        "batch_size": batch.batch_size + len(paired),
        "num_token_non_padded_cpu": num_tokens,
        "num_token_non_padded": _count(batch.num_token_non_padded, num_tokens),
        "input_embeds": _again(batch.input_embeds, last),
    }
    return PairedForwardBatch(**known | whole, own=batch, second=second, paired=paired, last_tokens=last)


def _last_tokens(batch: ForwardBatch) -> Tensor:
    return torch.cumsum(batch.extend_seq_lens, dim=0) - 1


def _second_rows(batch: ForwardBatch, paired: Sequence[int], rows: Tensor, last: Tensor) -> ForwardBatch:
    second = copy.copy(batch)
    second.forward_mode = ForwardMode.DECODE
    second.batch_size = len(paired)
    second.req_pool_indices = batch.req_pool_indices.index_select(0, rows)
    second.seq_lens = batch.seq_lens.index_select(0, rows)
    second.seq_lens_cpu = batch.seq_lens_cpu[list(paired)]
    second.seq_lens_sum = int(second.seq_lens_cpu.sum())
    second.input_ids = batch.input_ids.index_select(0, last)
    second.positions = batch.positions.index_select(0, last)
    # Some models write KV before attention is asked: theirs of a second row goes where that of padding goes.
    second.out_cache_loc = torch.zeros_like(batch.out_cache_loc[: len(paired)])
    second.num_token_non_padded_cpu = len(paired)
    return second


def _count(known: Tensor | None, num_tokens: int) -> Tensor | None:
    return None if known is None else torch.full_like(known, num_tokens)


def _again(values: Tensor | None, last: Tensor) -> Tensor | None:
    return None if values is None else torch.cat((values, values.index_select(0, last)))


def keep_one_state_per_request(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Hook before the logits: each second row's state in the place of its own token's, and the batch as it was.

    The last token's own state is needed by nobody: log-probabilities of a prompt's tokens come from those before them.
    """
    input_ids, states, lm_head, batch, *others = given
    if not isinstance(batch, PairedForwardBatch):
        return None
    num_own = batch.num_own_tokens
    kept = states[:num_own].index_copy(0, batch.last_tokens, states[num_own:])
    return (input_ids[:num_own], kept, lm_head, batch.own, *others), named
