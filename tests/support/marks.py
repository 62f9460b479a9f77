"""Which tests need a real engine, and which take long without one: `make test-fast` leaves both out.

A fixture that starts an engine says so with `starts_engine` (or `takes_long`), and every test that asks for it is
marked; a test that does so by itself is marked by hand. A test that is not marked cannot start an engine.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from prefillshare.serving.plan.command import ENGINE_PROGRAM

ENGINE = "engine"
SLOW = "slow"
LONG = "long"
BESIDE = "beside"
BESIDE_FOLDERS = frozenset({"frontend", "modules", "serving", "tenants", "training", "tui"})
"""Folders whose engine tests the second lane runs, so that both take about as long; last, when the first is through
with tests of many engines at once."""
SLOW_CPU_S = 10.0
_MARK = "mark_of_tests"
_TESTS = Path(__file__).parents[1]
_PROGRAMS = (ENGINE_PROGRAM[-1], "sglang_patches.forkserver")

AnyFunction = TypeVar("AnyFunction", bound=Callable[..., Any])


def starts_engine(function: AnyFunction) -> AnyFunction:
    """Say of a fixture that it starts an engine; below `@pytest.fixture`."""
    setattr(function, _MARK, ENGINE)
    return function


def takes_long(function: AnyFunction) -> AnyFunction:
    """Say of a fixture that it takes more than some seconds of CPU; below `@pytest.fixture`."""
    setattr(function, _MARK, SLOW)
    return function


def mark_tests(items: list[pytest.Item]) -> None:
    """Mark the tests that ask for such a fixture, directly or through another one, and put some of them last."""
    for item in items:
        known = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
        for definition in (definition for definitions in known for definition in definitions):
            if mark := getattr(definition.func, _MARK, None):
                item.add_marker(mark)
        if item.get_closest_marker(ENGINE) and item.path.relative_to(_TESTS).parts[0] in BESIDE_FOLDERS:
            item.add_marker(BESIDE)
    items.sort(key=lambda item: item.get_closest_marker(BESIDE) is not None)


def cpu_seconds() -> float:
    """What this process and the programs that it has waited for took so far."""
    return sum(os.times()[:4])


class Unmarked:
    """Tests that `make test-fast` runs, and should not: a machine's load does not change the CPU that they take."""

    def __init__(self) -> None:
        self.tests: dict[str, float] = {}

    def note(self, item: pytest.Item, seconds: float) -> None:
        """Keep it when it is long and not marked."""
        if seconds > SLOW_CPU_S and not any(item.get_closest_marker(mark) for mark in (ENGINE, SLOW, LONG)):
            self.tests[item.nodeid] = seconds


class Guard:
    """Refuses the start of an engine by a test that is not marked: it would make `make test-fast` slow."""

    def __init__(self) -> None:
        self.item: pytest.Item | None = None
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and self._is_unmarked() and any(name in arguments[1] for name in _PROGRAMS):
            self._refuse()

    def _is_unmarked(self) -> bool:
        return self.item is not None and self.item.get_closest_marker(ENGINE) is None

    def _refuse(self) -> None:
        pytest.fail(
            "this test starts an engine and is not marked: give its fixture @starts_engine (tests/support/marks.py), "
            "or the test @pytest.mark.engine"
        )


guard = Guard()
UNMARKED = Unmarked()
