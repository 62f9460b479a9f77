"""KV of a cached prefix is sent early only when nobody can still be writing it.

Target: ``sglang.srt.disaggregation.prefill.SchedulerDisaggregationPrefillMixin.maybe_send_cached_prefix_chunk``
Why: with overlapping steps, the step before may still be computing these pages when they are handed to the transport.
    Upstream records an event to wait for, and only one of its transports (mori, which is not supported here) looks at
    it: NIXL and Mooncake read at once, and are right only because their own start takes longer. Without a GPU there is
    no such event, and recording it ends the worker.
How: with overlapping steps nothing is sent early. The regular hand-off at the end of the prefill covers the whole
    prompt; it waits for the step.
Upstream: sglang/srt/disaggregation/prefill.py:1077 at 0.5.17.
Remove when: the transport waits for the event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def wrap_maybe_send(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def maybe_send_cached_prefix_chunk(self: Any, req: Any) -> None:
        if not self.enable_overlap:
            original(self, req)

    return maybe_send_cached_prefix_chunk
