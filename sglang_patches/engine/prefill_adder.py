"""Calls that arrive together compute a common start of their prompts once.

Target: ``sglang.srt.managers.schedule_policy.PrefillAdder``
Why: a prefix is found in the tree only when the batch that computes it is over. Agents asked at the same time over one
    context would each prefill it, in one batch; so would a call that arrives while the first one's batch runs.
How: a request whose next uncached tokens are just being computed for another one waits a scheduling round, and then
    finds them in the tree (:mod:`sglang_patches.prefill.underway`). Upstream's policy ``lpm`` moves such requests to
    the end of the queue, which a batch that is not full takes in all the same.
Remove when: the scheduler itself holds them back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sglang.srt.managers import schedule_policy as upstream

from sglang_patches.declarations import binds, overrides
from sglang_patches.prefill.underway import PrefillsUnderway

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import Req


@binds("managers.schedule_policy:PrefillAdder", at=("managers.scheduler", "dllm.mixin.scheduler"))
class PrefillAdder(upstream.PrefillAdder):
    """Holds a request back while another one computes what it needs next."""

    @property
    def _underway(self) -> PrefillsUnderway | None:
        """Noted in the tree, which strikes off what it takes; other trees than ours have none."""
        underway: PrefillsUnderway | None = getattr(self.tree_cache, "underway", None)
        return underway

    @overrides("08a95888e5900d75", "calls that arrive together would each compute their common start")
    def add_one_req(self, req: Req, *args: Any, **kwargs: Any) -> upstream.AddReqResult:
        underway = self._underway
        if underway is None:
            return super().add_one_req(req, *args, **kwargs)
        if underway.should_wait(req, self.page_size) or underway.is_being_sliced(req):
            return upstream.AddReqResult.CONTINUE
        result = super().add_one_req(req, *args, **kwargs)
        # Upstream may find no room for it; only what runs brings rows.
        if self.can_run_list and self.can_run_list[-1] is req:
            underway.add(req, self.page_size)
        return result

    @overrides("3450ace29c1ceee6", "nobody would wait for the next chunk of a long common start")
    def add_chunked_req(self, req: Req) -> Req | None:
        if self._underway is not None:
            self._underway.add(req, self.page_size)
        return super().add_chunked_req(req)
