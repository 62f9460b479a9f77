"""Calls that only want their prompt in the cache (``kv_hints`` with ``prefetch``): what is left out of them.

A caller sends the very call that it will send later, with the hint. So what makes the prompt stays, and of what is
wanted of the answer nothing is refused and nothing is done: there is one empty answer to each prompt, which ends by its
length. The module stays, too, for one with ``share = false`` has KV of its own.
:mod:`sglang_patches.http.bodies` reads the hint, :mod:`sglang_patches.engine.tokenizer_manager` asks here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang_patches.http.request_state import PREFETCH

if TYPE_CHECKING:
    from fastapi import Request
    from sglang.srt.managers.io_struct import GenerateReqInput

OF_AN_ANSWER = frozenset(
    "n best_of echo logprobs top_logprobs return_logprob logprob_start_len top_logprobs_num token_ids_logprob "
    "return_text_in_logprobs return_hidden_states return_routed_experts return_token_ids".split()
)
"""Members of a body that ask for what no token has."""
_NOTHING = {"temperature": 0, "max_new_tokens": 0}
_UNWANTED: dict[str, Any] = {
    "custom_logit_processor": None,
    "max_thinking_tokens": None,
    "require_reasoning": False,
}
"""Fields of a request that are about tokens to come, and what they are where none come."""


def is_prefetch(request: Request | None) -> bool:
    """Whether a call only wants its prompt in the cache."""
    return request is not None and bool(getattr(request.state, PREFETCH, False))


def take_prefetch(obj: GenerateReqInput, request: Request | None) -> bool:
    """Make a call for no token of one that only wants its prompt in the cache; whether it is one.

    Effects: changes ``obj``.
    """
    if not is_prefetch(request):
        return False
    for name, value in _UNWANTED.items():
        setattr(obj, name, value)
    is_batch = isinstance(obj.sampling_params, list)
    obj.sampling_params = [dict(_NOTHING) for _ in obj.sampling_params] if is_batch else dict(_NOTHING)
    return True
