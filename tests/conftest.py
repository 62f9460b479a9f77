"""What the whole suite shares: the mark of engine tests, and the fidelity matrix at the end of a run."""

from collections.abc import Generator

import pytest

from tests.support.forks import close_fork_servers
from tests.support.marks import guard, mark_engine_tests
from tests.support.scores import SCORES
from tests.support.servers import random_server

__all__ = ["random_server"]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark before `-m` selects."""
    mark_engine_tests(items)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let only marked tests start engines."""
    guard.item = item
    try:
        return (yield)
    finally:
        guard.item = None


def pytest_sessionfinish() -> None:
    """End what the session's engines were forked from."""
    close_fork_servers()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fidelity matrix under the results."""
    if SCORES:
        terminalreporter.section("fidelity: served tokens against the float32 reference")
        for score in SCORES:
            terminalreporter.write_line(str(score))
