"""A batch computes nothing of a page that was begun already, and counts what it computes.

Target: ``sglang.srt.managers.schedule_batch.ScheduleBatch.prepare_for_extend``,
    ``sglang.srt.managers.scheduler_components.metrics_reporter.PrefillStats.from_adder``
Why: the tree holds whole pages, so a call computes the end of the prompt before it once more. Upstream counts whole
    pages as computed, whatever was computed of them.
How: just before rows are allocated for the batch, each request goes on in the page that follows its cached prefix, as
    far as that is computed (:mod:`sglang_patches.prefill.open_pages`). Pages of one token are never begun.
    On an accelerator with overlapping steps, rows are handed over and never copied: a copy would have to wait for the
    step that still writes them.
Remove when: upstream's tree finds a prefix that ends within a page, and its counters count tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sglang_patches.declarations import wraps_upstream

if TYPE_CHECKING:
    from sglang.srt.managers.schedule_batch import ScheduleBatch
    from sglang.srt.managers.schedule_policy import PrefillAdder
    from sglang.srt.managers.scheduler_components.metrics_reporter import PrefillStats


@wraps_upstream(
    "managers.schedule_batch:ScheduleBatch.prepare_for_extend",
    "3970b68aad407be1",
    "the end of each prompt would be computed again by the next call",
)
def wrap_prepare_for_extend(original: Callable[[ScheduleBatch], None]) -> Callable[[ScheduleBatch], None]:
    def prepare_for_extend(self: ScheduleBatch) -> None:
        open_pages = getattr(self.tree_cache, "open_pages", None)
        if open_pages is not None:
            may_copy = self.device == "cpu" or not self.enable_overlap
            for req in self.reqs:
                req.prefillshare.continued = open_pages.give_to(req, may_copy=may_copy)
        original(self)

    return prepare_for_extend


@wraps_upstream(
    "managers.scheduler_components.metrics_reporter:PrefillStats.from_adder",
    "b4cc9aeb76dbcb99",
    "tokens that nobody computed would count as prefilled",
)
def wrap_from_adder(original: Callable[..., PrefillStats]) -> Callable[..., PrefillStats]:
    def from_adder(cls: type[PrefillStats], adder: PrefillAdder, *args: Any, **kwargs: Any) -> PrefillStats:
        stats = original(cls, adder, *args, **kwargs)
        reqs = adder.can_run_list
        again = [req for req in reqs if req.retracted_stain]
        stats.log_input_tokens = sum(req.extend_range.length for req in reqs)
        stats.reprocessed_log_input_tokens = sum(req.extend_range.length for req in again)
        stats.log_hit_tokens += sum(req.prefillshare.continued.num_tokens for req in reqs)
        stats.reprocessed_log_hit_tokens += sum(req.prefillshare.continued.num_tokens for req in again)
        return stats

    return from_adder
