"""A prefill worker computes KV and samples nothing.

Target: ``sglang.srt.disaggregation.prefill.PrefillBootstrapQueue``
Why: upstream samples the first token here, with the weights of the prefill module; and it does not say how much it is
    about to send.
How: a request that asks for no token is prefill-only for the whole engine, which then skips the sampler. Its KV is
    base-made, so it is cached even if it is handed to nobody (log-probabilities, warm-up), but for that of a health
    check. When the decode worker has said what it holds, the size of the hand-off is noted on the request.
Remove when: upstream can prefill without sampling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.disaggregation import prefill as upstream

from prefillshare.contract import NO_BOOTSTRAP_HOST
from sglang_patches.checks.reserved_ids import is_health_check
from sglang_patches.declarations import binds, overrides
from sglang_patches.disaggregation import hand_off
from sglang_patches.disaggregation.pushes import is_push

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


@binds("disaggregation.prefill:PrefillBootstrapQueue", at=("managers.scheduler",))
class PrefillBootstrapQueue(upstream.PrefillBootstrapQueue):
    """Calls whose decode worker has not said yet where their KV shall go."""

    @overrides("e20c6f8f1fd4e8f1", "a prefill worker would sample")
    def _process_req(self, req: Req) -> None:
        super()._process_req(req)
        req.sampling_params.max_new_tokens = 0
        # Upstream keeps what it computed for nobody out of the cache, and loses its rows when it was done in chunks.
        req.skip_radix_cache_insert = is_health_check(req.rid)

    queue: list[Req]

    @overrides("97d10c8b01d1b4ca", "pushes could take the last place that a call needs for the word of its end")
    def pop_bootstrapped(self, *args: Any, **kwargs: Any) -> Any:
        self.queue.sort(key=is_push)
        return super().pop_bootstrapped(*args, **kwargs)

    @overrides("0640ad76fa9c52d5", "nobody would know the size of a hand-off")
    def finalize_bootstrap(self, req: Req) -> bool:
        is_final: bool = super().finalize_bootstrap(req)
        if is_final and req.bootstrap_host != NO_BOOTSTRAP_HOST:
            # Upstream has just set where sending starts: after what the decode worker's tree holds.
            hand_off.report(req, req.start_send_idx, self.kv_manager)
        return is_final


_PUSHES = "how a push that waits for a batch is ended, and when pushes are put behind calls"

RELIED_ON = {
    "disaggregation.prefill:maybe_release_metadata_buffer": ("c942a8f8ba53e31f", _PUSHES),
    "disaggregation.prefill:SchedulerDisaggregationPrefillMixin.handle_bootstrap_failure": (
        "d3c959c6b4089d98",
        _PUSHES,
    ),
    "disaggregation.prefill:SchedulerDisaggregationPrefillMixin.get_next_disagg_prefill_batch_to_run": (
        "ab7dab4e0eaed892",
        _PUSHES,
    ),
}
