"""A request without a generated token cannot have finished, and has nothing to stream.

Target: ``sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor``,
    ``process_batch_result_prebuilt``
Why: upstream looks here at the first token, which the prefill worker sampled. Here there is none yet: stop rules would
    look at nothing, and a stream would begin with an empty piece.
How: only requests that have output (resumed ones), were aborted, or asked for no token go through the original.
Upstream: sglang/srt/managers/scheduler_components/batch_result_processor.py:96 at 0.5.17.
Remove when: upstream can hand over a request without a first token.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sglang_patches.patches.prebuilt_batch import is_fresh


def wrap_process_batch_result_prebuilt(original: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    def process_batch_result_prebuilt(self: Any, batch: Any) -> None:
        due = [req for req in batch.reqs if _is_due(req)]
        for req in batch.reqs:
            if req not in due:
                req.time_stats.set_decode_prebuilt_finish_time()
        original(self, SimpleNamespace(reqs=due, return_logprob=any(req.return_logprob for req in due)))

    return process_batch_result_prebuilt


def _is_due(req: Any) -> bool:
    ended = req.to_finish is not None or req.finished() or req.sampling_params.max_new_tokens == 0
    return ended or not is_fresh(req)
