"""How long a slice of a job is: what a call may have to wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req

SLICE_TOKENS = 128
"""The tiny base on a CPU: a step costs 7.0 ms of it, each further token 0.2, so 64 tokens cost 16 ms, 128 32, 512 108:
beyond 128 the step itself is less than a fifth."""
CHUNK_SHARE = 4
"""Where a call's own chunk is long, a slice is a part of it: on a GPU a step costs as much as hundreds of tokens."""


def count_slice_tokens(page_size: int, chunk_tokens: int | None) -> int:
    """Tokens that a slice computes: at most a chunk, else upstream would cut it into several."""
    if chunk_tokens is None:
        return max(SLICE_TOKENS, page_size)
    return min(max(SLICE_TOKENS, page_size, chunk_tokens // CHUNK_SHARE), chunk_tokens)


def shorten_slice(req: Req) -> None:
    """Let a slice end earlier, whose beginning the host tier has, and which the pool did not take from there.

    Effects: changes a request that is being admitted; none on calls.
    """
    num_tokens = req.prefillshare.slice_tokens
    if num_tokens:
        end = len(req.prefix_indices) + num_tokens
        del req.origin_input_ids[end:], req.full_untruncated_fill_ids[end:]
        req.logprob_start_len = len(req.origin_input_ids)
