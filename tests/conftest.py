"""What the whole suite shares: the fidelity matrix at the end of a run."""

import pytest

from tests.support.forks import close_fork_servers
from tests.support.scores import SCORES


def pytest_sessionfinish() -> None:
    """End what the session's engines were forked from."""
    close_fork_servers()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fidelity matrix under the results."""
    if SCORES:
        terminalreporter.section("fidelity: served tokens against the float32 reference")
        for score in SCORES:
            terminalreporter.write_line(str(score))
