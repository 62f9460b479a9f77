"""Fixtures of the tests of what changes in SGLang."""

from collections.abc import Iterator

import pytest
import torch

from sglang_patches.cpu import computation
from tests.support.fresh import Fresh, fresh_interpreters
from tests.support.marks import takes_long


@pytest.fixture(scope="session")
@takes_long
def fresh() -> Iterator[Fresh]:
    """Interpreters that have imported SGLang, unchanged."""
    with fresh_interpreters() as fresh:
        yield fresh


@pytest.fixture(params=["loops", "operators"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU's own loops, as with one thread, and torch's operators, as with more."""
    if request.param == "operators":
        monkeypatch.setattr(computation, "can_loop", lambda *tensors: False)
    else:
        monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
