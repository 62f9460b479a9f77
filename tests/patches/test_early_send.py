"""With overlapping steps, no KV is sent before the step that writes it is over."""

from typing import Any

import pytest
from sglang.srt.disaggregation.prefill import SchedulerDisaggregationPrefillMixin

from sglang_patches.engine.scheduler import Scheduler


@pytest.mark.parametrize(("enable_overlap", "num_sent"), [(True, 0), (False, 1)])
def test_a_cached_prefix_is_sent_early_only_without_overlap(
    enable_overlap: bool, num_sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        SchedulerDisaggregationPrefillMixin,
        "maybe_send_cached_prefix_chunk",
        lambda scheduler, req: sent.append(req),
    )
    scheduler = object.__new__(Scheduler)  # its constructor loads a model
    scheduler.enable_overlap = enable_overlap
    scheduler.maybe_send_cached_prefix_chunk("request")
    assert len(sent) == num_sent
