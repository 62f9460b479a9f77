"""Log-probabilities of named tokens, asked for by one request beside others that ask for none.

Target: ``sglang.srt.layers.logprob_processor.get_token_ids_logprobs``
Why: with ``token_ids_logprob`` in one request of a decode batch, the others get an empty list where the scheduler then
    calls ``tolist()``: it ends, and with it every call that it was serving.
How: those places get an empty tensor, as upstream's batched variant of the same function does.
Upstream: sglang/srt/layers/logprob_processor.py:112, :157 and
    sglang/srt/managers/scheduler_components/batch_result_processor.py:949 at 0.5.17.
Remove when: upstream's two variants agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_patches.declarations import wraps_upstream


@wraps_upstream(
    "layers.logprob_processor:get_token_ids_logprobs",
    "df044a49fced0b1c",
    "one request that asks for tokens' log-probabilities beside others would end the scheduler",
)
def wrap_get_token_ids_logprobs(original: Callable[..., Any]) -> Callable[..., Any]:
    def get_token_ids_logprobs(logprobs: Any, token_ids_logprobs: Any, no_copy_to_cpu: bool = False) -> Any:
        values, ids = original(logprobs, token_ids_logprobs, no_copy_to_cpu)
        if no_copy_to_cpu:
            values = [logprobs.new_empty(0) if isinstance(row, list) else row for row in values]
        return values, ids

    return get_token_ids_logprobs
