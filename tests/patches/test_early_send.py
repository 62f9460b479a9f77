"""With overlapping steps, no KV is sent before the step that writes it is over; that of a job goes to nobody."""

from types import SimpleNamespace
from typing import Any

import pytest
from sglang.srt.disaggregation.prefill import SchedulerDisaggregationPrefillMixin

from sglang_patches.engine.scheduler import Scheduler
from sglang_patches.prefill.request_state import ALL_BASE_MADE, RequestState


@pytest.mark.parametrize(
    ("enable_overlap", "is_eager", "num_sent"), [(True, False, 0), (False, False, 1), (False, True, 0), (True, True, 0)]
)
def test_a_cached_prefix_is_sent_early_only_without_overlap_and_for_a_call(
    enable_overlap: bool, is_eager: bool, num_sent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Any] = []
    monkeypatch.setattr(
        SchedulerDisaggregationPrefillMixin,
        "maybe_send_cached_prefix_chunk",
        lambda scheduler, req: sent.append(req),
    )
    scheduler = object.__new__(Scheduler)  # its constructor loads a model
    scheduler.enable_overlap = enable_overlap
    state = RequestState(boundary=ALL_BASE_MADE, decode_module="math", slice_tokens=64 if is_eager else 0)
    scheduler.maybe_send_cached_prefix_chunk(SimpleNamespace(prefillshare=state))
    assert len(sent) == num_sent
