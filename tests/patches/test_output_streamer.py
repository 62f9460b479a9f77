"""What a scheduler reports of a batch: calls that have a token or their end, and nothing that is computed ahead."""

from types import SimpleNamespace

import pytest

from sglang_patches.engine.output_streamer import SchedulerOutputStreamer, upstream


@pytest.mark.parametrize(
    ("is_eager", "output_ids", "is_finished", "is_told"),
    [
        pytest.param(False, [7], False, True, id="with a token"),
        pytest.param(False, [], True, True, id="ended without one"),
        pytest.param(False, [], False, False, id="retracted before its first"),
        pytest.param(True, [], True, False, id="computed ahead"),
    ],
)
def test_who_is_reported(
    monkeypatch: pytest.MonkeyPatch, is_eager: bool, output_ids: list[int], is_finished: bool, is_told: bool
) -> None:
    told: list[object] = []
    monkeypatch.setattr(
        upstream.SchedulerOutputStreamer, "stream_output", lambda self, reqs, *args, **kwargs: told.extend(reqs)
    )
    state = SimpleNamespace(is_eager=is_eager)
    req = SimpleNamespace(prefillshare=state, output_ids=output_ids, finished=lambda: is_finished)
    SchedulerOutputStreamer.stream_output(SchedulerOutputStreamer.__new__(SchedulerOutputStreamer), [req], False)
    assert told == ([req] if is_told else [])
