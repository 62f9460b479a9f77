"""What a call's reply says of shared prefill: noted by the scheduler, read by router, clients and measurements.

`/generate` shows it as a list of one such object in `meta_info`, the OpenAI endpoints as the object itself in
`metadata` of an unstreamed reply, both under `REPORT_KEY`.
"""

from typing import TypedDict

REPORT_KEY = "prefillshare"


class CallReport(TypedDict, total=False):
    """What is known of one call; a worker tells what it saw."""

    own_hit_tokens: int
    """Cached tokens of the prompt that the call's own module had prefilled; with the next, all cached ones."""
    cross_hit_tokens: int
    """Cached tokens of the prompt that other modules had prefilled."""
    choice_tokens: int
    """Tokens of the prompt that were computed just before, to choose the call's module; they are no cached ones."""
    avoidable_tokens: int
    """Tokens of the prompt that a module with `share = false` computed although the cache had them, made by the prefill
    module for others."""
    host_hit_tokens: int
    """Cached tokens of the prompt that were loaded from the engine's own tier in the host's memory."""
    store_hit_tokens: int
    """Cached tokens of the prompt that were loaded from the deployment's store."""
    handoff_tokens: int
    """Tokens whose KV was handed over."""
    handoff_bytes: int
    """Bytes that this took, in whole pages."""
    handoff_seconds: float
    """On a prefill worker, from the end of the prefill to the end of the hand-off."""
    prefill_seconds: float
    """On a prefill worker, from when it could begin, the decode worker having room, to the end of the prefill."""
    handoff_by_memory: bool
    """On a prefill worker, whether it wrote the KV right into the decode worker's memory."""
