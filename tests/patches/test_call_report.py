"""When the scheduler's note on a call comes, by the values that SGLang takes of it for each report."""

from types import SimpleNamespace

import pytest

from prefillshare.wire.call_report import REPORT_KEY
from sglang_patches.observed.call_report import note


@pytest.mark.parametrize(
    ("max_new_tokens", "lengths"),
    [
        pytest.param(0, [0], id="no token is asked for"),
        pytest.param(16, [1, 5, 16], id="streamed"),
        # As upstream has a call that is retracted before its first token report then, and again with the token.
        pytest.param(16, [0, 1, 16], id="retracted before the first token"),
        pytest.param(16, [0, 0, 16], id="retracted twice"),
    ],
)
def test_a_note_comes_once(max_new_tokens: int, lengths: list[int]) -> None:
    req = SimpleNamespace(customized_info=None, sampling_params=SimpleNamespace(max_new_tokens=max_new_tokens))
    note(req, own_hit_tokens=3)
    note(req, cross_hit_tokens=4)
    told = [
        report
        for sent, length in zip([0, *lengths], lengths, strict=False)
        for report in req.customized_info[REPORT_KEY][sent:length]
    ]
    assert told == [{"own_hit_tokens": 3, "cross_hit_tokens": 4}]
