"""With overlapping steps, no KV is sent before the step that writes it is over."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_patches.patches.early_send import wrap_maybe_send


@pytest.mark.parametrize(("enable_overlap", "num_sent"), [(True, 0), (False, 1)])
def test_a_cached_prefix_is_sent_early_only_without_overlap(enable_overlap: bool, num_sent: int) -> None:
    sent: list[Any] = []
    send = wrap_maybe_send(lambda scheduler, req: sent.append(req))
    send(SimpleNamespace(enable_overlap=enable_overlap), "request")
    assert len(sent) == num_sent
