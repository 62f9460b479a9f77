"""What the whole suite shares: the marks of tests, and the fidelity matrix at the end of a run."""

import asyncio
import gc
from collections.abc import Generator, Iterator

import pytest
from hypothesis import HealthCheck, settings

from prefillshare.serving.machine import ports
from tests.support.forks import close_fork_servers
from tests.support.marks import SLOW_CPU_S, UNMARKED, cpu_seconds, guard, mark_tests
from tests.support.parts import add_options, share_out
from tests.support.scores import SCORES
from tests.support.servers import random_server

__all__ = ["random_server"]

# A busy machine holds up an example, or the drawing of one, for seconds.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options of lanes."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Take part of the tests, where another lane takes the others."""
    share_out(config)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark before `-m` selects."""
    mark_tests(items)


def pytest_collection_finish() -> None:
    """What was imported and collected stays: looking through it for garbage takes seconds each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let only marked tests start engines, and note what others take."""
    guard.item, before = item, cpu_seconds()
    try:
        return (yield)
    finally:
        guard.item = None
        UNMARKED.note(item, cpu_seconds() - before)


def pytest_sessionfinish() -> None:
    """End what the session's engines were forked from, and let go the ports of its fixtures."""
    close_fork_servers()
    ports.release(set(ports._held))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the fidelity matrix under the results."""
    if SCORES:
        terminalreporter.section("fidelity: served tokens against the float32 reference")
        for score in SCORES:
            terminalreporter.write_line(str(score))
    if UNMARKED.tests:
        terminalreporter.section(f"more than {SLOW_CPU_S:.0f} s of CPU: mark them slow (tests/support/marks.py)")
        for name, seconds in UNMARKED.tests.items():
            terminalreporter.write_line(f"{seconds:6.1f} s  {name}")


@pytest.fixture(autouse=True)
def _ports_of_one_test() -> Iterator[None]:
    """Let go the ports that a test was given; those of fixtures for many tests were held before."""
    before = set(ports._held)
    yield
    ports.release(set(ports._held) - before)


@pytest.fixture(autouse=True)
def _event_loop_of_one_test() -> None:
    """Give every test Python's own event loop.

    SGLang makes uvloop the process's as it is imported, and uvloop's timers, which are of whole milliseconds, can end
    early: a test would see the one or the other by what ran before it.
    """
    asyncio.set_event_loop_policy(None)
