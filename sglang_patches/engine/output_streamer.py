"""What is computed ahead is told to nobody.

Target: ``sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer``
Why: every request of a batch is reported to the HTTP process, which knows none of a job's slices.
How: slices are left out of what is reported (:mod:`sglang_patches.eager.prefill` says how a job ends).
Remove when: upstream computes ahead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.managers.scheduler_components import output_streamer as upstream

from sglang_patches.declarations import binds, overrides

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


@binds(
    "managers.scheduler_components.output_streamer:SchedulerOutputStreamer",
    at=("managers.scheduler",),
)
class SchedulerOutputStreamer(upstream.SchedulerOutputStreamer):
    """Reports calls only."""

    @overrides("02a6217e9a44972a", "the HTTP process would hear of requests that it does not know")
    def stream_output(self, reqs: list[Req], *args: Any, **kwargs: Any) -> None:
        super().stream_output([req for req in reqs if not req.prefillshare.is_eager], *args, **kwargs)
