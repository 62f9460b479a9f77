"""What is computed ahead is told to nobody, and a call has something to tell from its first token on.

Target: ``sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer``
Why: every request of a batch is reported to the HTTP process, which knows none of a job's slices. A call that was
    retracted before its first token is in its batch too: the empty report would be taken for the first token, and the
    token's log-probability, for which it leaves no place, would be lost.
How: slices (:mod:`sglang_patches.eager.prefill` says how a job ends) and such calls are left out of what is reported.
Remove when: upstream computes ahead, and reports tokens only.
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
    """Reports calls only, once they have a token or their end."""

    @overrides("02a6217e9a44972a", "the HTTP process would hear of requests that it does not know, and of no token")
    def stream_output(self, reqs: list[Req], *args: Any, **kwargs: Any) -> None:
        super().stream_output([req for req in reqs if _is_told(req)], *args, **kwargs)


def _is_told(req: Req) -> bool:
    return not req.prefillshare.is_eager and bool(req.output_ids or req.finished())
