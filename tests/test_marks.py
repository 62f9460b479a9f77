"""Tests without the mark `engine` stay without one."""

import subprocess

import pytest

from prefillshare.serving.arguments import ENGINE_PROGRAM


def test_a_test_that_is_not_marked_cannot_start_an_engine() -> None:
    with pytest.raises(pytest.fail.Exception, match="starts an engine and is not marked"):
        subprocess.run(ENGINE_PROGRAM, check=False)
