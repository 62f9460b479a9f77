"""A request without a generated token cannot have finished, and has nothing to stream.

Target: ``sglang.srt.managers.scheduler_components.batch_result_processor.SchedulerBatchResultProcessor``
Why: upstream looks here at the first token, which the prefill worker sampled. Here there is none yet: stop rules would
    look at nothing, and a stream would begin with an empty piece.
How: only requests that have output (resumed ones), were aborted, or asked for no token go through the original.
Remove when: upstream can hand over a request without a first token.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

from sglang.srt.managers.scheduler_components import batch_result_processor as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation.hand_off import is_fresh

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req, ScheduleBatch


@binds(
    "managers.scheduler_components.batch_result_processor:SchedulerBatchResultProcessor",
    at=("managers.scheduler",),
)
class SchedulerBatchResultProcessor(upstream.SchedulerBatchResultProcessor):
    """Looks at a handed-over request only once there is something to look at."""

    @overrides("494dbd9e5560c9a8", "requests without output would be checked for their end")
    def process_batch_result_prebuilt(self, batch: ScheduleBatch) -> None:
        due = [req for req in batch.reqs if _is_due(req)]
        for req in batch.reqs:
            if req not in due:
                req.time_stats.set_decode_prebuilt_finish_time()
        super().process_batch_result_prebuilt(
            SimpleNamespace(reqs=due, return_logprob=any(req.return_logprob for req in due))
        )


def _is_due(req: Req) -> bool:
    ended = req.to_finish is not None or req.finished() or req.sampling_params.max_new_tokens == 0
    return ended or not is_fresh(req)
