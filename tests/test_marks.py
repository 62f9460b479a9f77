"""Tests without the mark `engine` stay without one."""

import subprocess

import pytest

from prefillshare.serving.plan.command import ENGINE_PROGRAM
from tests.support import lanes


def test_a_test_that_is_not_marked_cannot_start_an_engine() -> None:
    with pytest.raises(pytest.fail.Exception, match="starts an engine and is not marked"):
        subprocess.run(ENGINE_PROGRAM, check=False)


@pytest.mark.parametrize(
    ("engines", "others", "together"), [(0, 0, 0), (0, 1, 1), (1, 0, 1), (0, 5, 0), (5, 0, 0), (5, 1, 1), (5, 5, 5)]
)
def test_both_lanes_must_pass_and_one_may_have_nothing_to_do(engines: int, others: int, together: int) -> None:
    assert lanes.worse(engines, others) == together
